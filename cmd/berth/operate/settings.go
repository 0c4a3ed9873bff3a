package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func newConfigCommand() *cobra.Command {
	var output *choice
	c := &cobra.Command{
		Use:   "config",
		Short: "Print the settings in force, without secrets",
		Example: `  berth config
  BERTH_LISTEN=:8080 berth config --config /etc/berth.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			values := map[string]string{}
			for _, s := range settings() {
				value := maskURLs(s.get(c))
				if s.secret && value != "" {
					value = "***"
				}
				values[s.key] = value
				if output.value != "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %q\n", s.key, value)
				}
			}
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), values)
			}
			return nil
		},
	}
	addFlags(c.Flags())
	output = outputFlag(c)
	return c
}
