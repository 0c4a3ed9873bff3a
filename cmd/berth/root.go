package main

import (
	"github.com/spf13/cobra"

	"berth/cmd/berth/client"
	"berth/cmd/berth/operate"
	"berth/cmd/berth/serve"
	"berth/cmd/berth/settings"
)

// newRootCommand is the whole command tree.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "An OCI registry, and the command line to manage it",
		Long: `Berth is an OCI registry: teams push images, artifacts and charts into their own
namespace, and everybody allowed pulls them.

The client commands talk to a running server: --server, else BERTH_SERVER, else
http://localhost:5000. They sign in with --username and --password-stdin, else with
BERTH_USERNAME and BERTH_PASSWORD, else as 'docker login' or 'berth login' did.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("berth {{.Version}}\n") // as 'berth version'
	root.AddGroup(
		&cobra.Group{ID: groupServer, Title: "Server commands:"},
		&cobra.Group{ID: groupClient, Title: "Client commands:"},
	)

	for _, c := range []*cobra.Command{
		serve.NewCommand(version),
		operate.NewMigrateCommand(),
		operate.NewConfigCommand(),
		operate.NewGCCommand(),
		operate.NewWhyCommand(),
		operate.NewDuCommand(),
		operate.NewCheckCommand(),
		operate.NewImportCommand(),
		operate.NewBackupCommand(version),
		operate.NewRestoreCommand(),
		operate.NewMigrateStorageCommand(),
	} {
		c.GroupID = groupServer
		root.AddCommand(c)
	}
	root.AddCommand(newVersionCommand(version))
	root.AddCommand(settings.NewSettingsTopic())
	root.AddCommand(client.NewCredentialHelperCommand())
	for _, c := range []*cobra.Command{client.NewInitContainerCommand(), client.NewRBACCommand()} {
		c.GroupID = groupClient
		root.AddCommand(c)
	}

	r := &client.Remote{}
	for _, c := range []*cobra.Command{
		client.NewLoginCommand(r),
		client.NewLogoutCommand(r),
		client.NewWhoamiCommand(r),
		client.NewUserCommand(r),
		client.NewTeamCommand(r),
		client.NewGroupCommand(r),
		client.NewGrantCommand(r),
		client.NewDenyCommand(r),
		client.NewExplainCommand(r),
		client.NewWhoCanCommand(r),
		client.NewTokenCommand(r),
		client.NewRepoCommand(r),
		client.NewTagCommand(r),
		client.NewRetentionCommand(r),
		client.NewAuditCommand(r),
		client.NewQuotaCommand(r),
		client.NewInstanceCommand(r),
		client.NewServiceCommand(r),
		client.NewKeyCommand(r),
		client.NewAccountCommand(r),
		client.NewAWSTokenCommand(r),
		client.NewTrustCommand(r),
	} {
		c.GroupID = groupClient
		r.AddFlags(c)
		root.AddCommand(c)
		if c.Name() == "user" {
			c.AddCommand(operate.NewUserPasswordCommand(r)) // which also works on the database itself
		}
		client.AddCompletion(r, c)
	}
	ownFlagsFirst(root)
	return root
}

// The groups of commands in `berth --help`.
const (
	groupServer = "server"
	groupClient = "client"
)
