package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newVersionCommand(version string) *cobra.Command {
	var output *choice
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  berth version`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output.value == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					Version string `json:"version"`
				}{version})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "berth", version)
			return err
		},
	}
	output = outputFlag(c)
	return c
}
