package operate

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
	"berth/cmd/berth/settings"
)

// NewConfigCommand makes 'berth config'.
func NewConfigCommand() *cobra.Command {
	var output *cli.Choice
	c := &cobra.Command{
		Use:   "config",
		Short: "Print the settings in force, without secrets",
		Example: `  berth config
  BERTH_LISTEN=:8080 berth config --config /etc/berth.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := settings.Load(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			values := map[string]string{}
			for _, s := range settings.All() {
				value := settings.MaskURLs(s.Get(c))
				if s.Secret && value != "" {
					value = "***"
				}
				values[s.Key] = value
				if output.Value != "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %q\n", s.Key, value)
				}
			}
			if output.Value == "json" {
				return cli.PrintJSON(cmd.OutOrStdout(), values)
			}
			return nil
		},
	}
	settings.AddFlags(c.Flags())
	output = cli.OutputFlag(c)
	return c
}
