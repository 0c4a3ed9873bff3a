package main

import "github.com/spf13/cobra"

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
		newServeCommand(version),
		newMigrateCommand(),
		newConfigCommand(),
		newGCCommand(),
		newWhyCommand(),
		newDuCommand(),
		newCheckCommand(),
		newImportCommand(),
		newBackupCommand(version),
		newRestoreCommand(),
		newMigrateStorageCommand(),
	} {
		c.GroupID = groupServer
		root.AddCommand(c)
	}
	root.AddCommand(newVersionCommand(version))
	root.AddCommand(newSettingsTopic())
	root.AddCommand(newCredentialHelperCommand())
	for _, c := range []*cobra.Command{newInitContainerCommand(), newRBACCommand()} {
		c.GroupID = groupClient
		root.AddCommand(c)
	}

	r := &remote{}
	for _, c := range []*cobra.Command{
		newLoginCommand(r),
		newLogoutCommand(r),
		newWhoamiCommand(r),
		newUserCommand(r),
		newTeamCommand(r),
		newGroupCommand(r),
		newGrantCommand(r),
		newDenyCommand(r),
		newExplainCommand(r),
		newWhoCanCommand(r),
		newTokenCommand(r),
		newRepoCommand(r),
		newTagCommand(r),
		newRetentionCommand(r),
		newAuditCommand(r),
		newQuotaCommand(r),
		newInstanceCommand(r),
		newServiceCommand(r),
		newKeyCommand(r),
		newAccountCommand(r),
		newAWSTokenCommand(r),
		newTrustCommand(r),
	} {
		c.GroupID = groupClient
		r.addFlags(c)
		root.AddCommand(c)
		if c.Name() == "user" {
			c.AddCommand(newUserPasswordCommand(r)) // which also works on the database itself
		}
		addCompletion(r, c)
	}
	ownFlagsFirst(root)
	return root
}

// The groups of commands in `berth --help`.
const (
	groupServer = "server"
	groupClient = "client"
)
