package operate

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/metadata"
)

// schema is what migrate has done and found.
type schema struct {
	Applied []string `json:"applied"`
	Version int      `json:"version"`
	Newest  int      `json:"newest"` // that this program has
}

// NewMigrateCommand makes 'berth migrate'.
func NewMigrateCommand() *cobra.Command {
	var status bool
	var output *cli.Choice
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date",
		Long: `Bring the database's schema up to date. 'berth serve' does it by itself when it
starts; this is for those who do it by hand, before a new version is rolled out.`,
		Example: `  berth migrate
  berth migrate --status --database-url postgres://berth@db/berth`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := settings.Load(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			o := open.DatabaseOptions(c, 2, open.Logger(c, cmd.ErrOrStderr()))
			o.MustExist = status
			db, err := metadata.Open(ctx, o)
			if errors.Is(err, metadata.ErrNoDatabase) {
				return noRegistry(cmd, c)
			}
			if err != nil {
				return open.DatabaseError(err)
			}
			defer func() {
				if e := db.Close(); err == nil {
					err = e
				}
			}()
			done := schema{Applied: []string{}}
			if !status {
				applied, err := db.Migrate(ctx)
				for _, name := range applied {
					done.Applied = append(done.Applied, name)
					if output.Value != "json" {
						fmt.Fprintln(cmd.OutOrStdout(), "applied", name)
					}
				}
				if err != nil {
					return err
				}
			}
			if done.Version, done.Newest, err = db.SchemaVersion(ctx); err != nil {
				return err
			}
			if output.Value == "json" {
				return cli.PrintJSON(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "schema version %d of %d\n", done.Version, done.Newest)
			return err
		},
	}
	settings.AddFlags(c.Flags())
	c.Flags().BoolVar(&status, "status", false, "only say which version the schema has")
	output = cli.OutputFlag(c)
	return c
}
