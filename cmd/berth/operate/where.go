package operate

import (
	"os"

	"github.com/spf13/cobra"

	"berth/cmd/berth/client"
	"berth/cmd/berth/settings"
)

// place is where a command works that has two ways: on the configured database
// and store itself, or on a running server over the management API.
type place struct {
	server client.Remote
	local  bool
}

const whereHelp = `

It works on the configured database and store, unless --server says otherwise, or BERTH_SERVER is set and no setting
(database_url, storage_url, data_dir) says where those are. --local makes sure that no server is asked.`

// addFlags adds --server and what signs in there, and --local.
func (p *place) addFlags(c *cobra.Command) {
	p.server.AddConnectFlags(c, "ask this server instead of the configured database and store (default $BERTH_SERVER, where no setting says where those are)")
	c.Flags().BoolVar(&p.local, "local", false, "work on the configured database and store, whatever BERTH_SERVER says")
	c.MarkFlagsMutuallyExclusive("server", "local")
}

// remote reports whether a server is to be asked. A script that names a
// database works on that one, also where BERTH_SERVER is set for other commands.
func (p *place) remote(cmd *cobra.Command) (bool, error) {
	switch {
	case p.server.Server != "":
		return true, nil
	case p.local || os.Getenv("BERTH_SERVER") == "":
		return false, nil
	}
	c, err := settings.Load(cmd.Flags(), os.Environ())
	if err != nil {
		return false, err
	}
	return !c.Explicit["database_url"] && !c.Explicit["storage_url"] && !c.Explicit["data_dir"], nil
}
