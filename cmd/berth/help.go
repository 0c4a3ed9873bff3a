package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/cmd/berth/settings"
)

// ownFlagsFirst makes the help of every command below root leave out the flags of settings and say
// where they are listed. They are taken, and completed, as ever.
func ownFlagsFirst(root *cobra.Command) {
	usage := root.UsageFunc()
	root.SetUsageFunc(func(c *cobra.Command) error {
		var hidden []*pflag.Flag
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if len(f.Annotations[settings.SettingFlag]) > 0 && !f.Hidden {
				hidden = append(hidden, f)
				f.Hidden = true
			}
		})
		err := usage(c)
		for _, f := range hidden {
			f.Hidden = false
		}
		if err == nil && len(hidden) > 0 {
			_, err = fmt.Fprint(c.OutOrStderr(), `
Every setting is a flag too, such as --data-dir, --database-url and --storage-url: see 'berth help settings'.
`)
		}
		return err
	})
}
