package settings

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// SettingFlag marks a flag that is a setting, in the flag's annotations: commands that take all
// settings list their own flags only, and 'berth help settings' lists these.
const SettingFlag = "setting"

// NewSettingsTopic is the page of 'berth help settings'. It is not a command: it only has a text.
func NewSettingsTopic() *cobra.Command {
	var b strings.Builder
	for _, s := range All() {
		about := []string{s.Env()}
		if s.takes != "" {
			about = append(about, s.takes)
		}
		if initial := cmp.Or(strings.ReplaceAll(s.shown, "`", ""), s.initial); initial != "" {
			about = append(about, "default "+initial)
		}
		fmt.Fprintf(&b, "\n  --%s  (%s)\n", s.Flag(), strings.Join(about, "; "))
		writeWrapped(&b, "      ", s.help)
	}
	return &cobra.Command{
		Use:   "settings",
		Short: "The settings of the server and of the commands that work on its data",
		Long: `The settings of 'berth serve', and of the commands that work on its database and store. Each is a flag,
an environment variable (BERTH_GC_GRACE), or a line of the YAML file that --config or BERTH_CONFIG names
(gc_grace); a flag wins over the environment, which wins over the file. BERTH_<NAME>_FILE reads a secret
from a file. 'berth config' prints what is in force.

A duration is written as 90s, 5m, 24h, 10d, 2w or 1d12h; a size as 512KiB, 16MiB or 1GiB.
` + strings.TrimRight(b.String(), "\n"),
	}
}

// helpWidth is where the lines of 'berth help settings' are broken, in characters.
const helpWidth = 100

// writeWrapped writes words in lines of helpWidth characters at most, each behind the indent. A
// longer word stands alone.
func writeWrapped(w io.Writer, indent, text string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(indent)+len(line)+1+len(word) > helpWidth {
			fmt.Fprintln(w, indent+line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(w, indent+line)
}
