package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"berth/metadata"
)

func newMigrateCommand() *cobra.Command {
	var status bool
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date",
		Long: `Bring the database's schema up to date. 'berth serve' does it by itself when it
starts; this is for those who do it by hand, before a new version is rolled out.`,
		Example: `  berth migrate
  berth migrate --status --database-url postgres://berth@db/berth`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := loadConfig(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			db, err := metadata.Open(ctx, metadata.Options{URL: c.DatabaseURL, MaxConns: 2, Logger: newLogger(c, cmd.ErrOrStderr())})
			if err != nil {
				return err
			}
			defer func() {
				if e := db.Close(); err == nil {
					err = e
				}
			}()
			if !status {
				applied, err := db.Migrate(ctx)
				for _, name := range applied {
					fmt.Fprintln(cmd.OutOrStdout(), "applied", name)
				}
				if err != nil {
					return err
				}
			}
			have, want, err := db.SchemaVersion(ctx)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "schema version %d of %d\n", have, want)
			return nil
		},
	}
	addFlags(c.Flags())
	c.Flags().BoolVar(&status, "status", false, "only say which version the schema has")
	return c
}

func newConfigCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Print the settings in force, without secrets",
		Example: `  berth config
  BERTH_LISTEN=:8080 berth config --config /etc/berth.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			for _, s := range settings() {
				value := s.get(c)
				if s.secret && value != "" {
					value = "***"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %q\n", s.key, value)
			}
			return nil
		},
	}
	addFlags(c.Flags())
	return c
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  berth version`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "berth", version)
			return err
		},
	}
}
