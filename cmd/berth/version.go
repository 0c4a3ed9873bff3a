package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
)

func newVersionCommand(version string) *cobra.Command {
	var output *cli.Choice
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  berth version`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output.Value == "json" {
				return cli.PrintJSON(cmd.OutOrStdout(), struct {
					Version string `json:"version"`
				}{version})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "berth", version)
			return err
		},
	}
	output = cli.OutputFlag(c)
	return c
}
