package operate

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/auth"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/imports"
	"berth/jobs"
	"berth/metadata"
	"berth/oci"
)

// NewImportCommand makes 'berth import'.
func NewImportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "import",
		Short: "Take over users and tokens from other systems",
		Long: `Take over users and tokens from other systems. These commands work on the configured database
themselves, beside running servers, and can be run again: what is there already stays as it is. With
--dry-run they only say what they would do. A record that cannot be imported, or whose name is that of
somebody else here, stops the import before anything is written; all of them are named at once.`,
		Example: `  berth import htpasswd users.htpasswd --dry-run
  berth import dims tokens.json
  berth import dockit dockit.sqlite --service registry.example.com`,
	}
	c.AddCommand(newImportHtpasswdCommand(), newImportDimsCommand(), newImportDockitCommand())
	return c
}

// importFlags are those that all imports have.
type importFlags struct {
	cmd    *cobra.Command
	dryRun bool
	skip   bool
	admins bool
	output *cli.Choice
}

// adminsFlag is for imports that give credentials to users who are there.
func (f *importFlags) adminsFlag(c *cobra.Command) {
	c.Flags().BoolVar(&f.admins, "admins", false, "also import records of users who administer this registry")
}

func addImportFlags(c *cobra.Command) *importFlags {
	f := &importFlags{cmd: c}
	settings.AddFlags(c.Flags())
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only say what would be done")
	c.Flags().BoolVar(&f.skip, "skip-invalid", false, "leave out records that cannot be imported; without it they are named, and nothing is imported")
	f.output = cli.OutputFlag(c)
	return f
}

// run imports into the configured database, and prints the report. Where the users are a
// directory's, and the settings have the directory, it is asked about names.
func (f *importFlags) run(source string, one func(context.Context, *local, imports.Options) (imports.Report, error)) error {
	return runLocal(f.cmd, false, func(ctx context.Context, l *local) (err error) {
		p := cli.NewProgress(f.cmd, "importing")
		defer p.End()
		o := imports.Options{People: l.people(), DryRun: f.dryRun, SkipInvalid: f.skip, Admins: f.admins, Source: source,
			Progress: func(done, total int) {
				at := jobs.Progress{Unit: jobs.UnitItems, Done: int64(done), Total: int64(total)}
				p.Show(at, fmt.Sprintf("%d of %d records", done, total))
			}}
		if source == "ldap" && l.config.LDAP.Enabled() && l.config.LDAP.UserDN == "" {
			directory, err := open.LDAPAuthenticator(l.config.LDAP, nil, func(string, time.Duration) {}, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer directory.Close()
			o.Canonical = directory.Canonical
		}
		report, err := one(ctx, l, o)
		p.End()
		if err != nil {
			return err
		}
		return f.print(f.cmd, report)
	})
}

// print writes the report, and says nothing was written after a dry run.
func (f *importFlags) print(cmd *cobra.Command, r imports.Report) error {
	r.DryRun = f.dryRun
	if f.output.Value == "json" {
		return cli.PrintJSON(cmd.OutOrStdout(), r)
	}
	for _, line := range r.Kept {
		fmt.Fprintln(cmd.ErrOrStderr(), line)
	}
	did := "made"
	if f.dryRun {
		did = "would be made"
	}
	parts := []string{cli.Count(r.Users, "user") + " " + did}
	for _, made := range []struct {
		n    int
		what string
	}{{r.Tokens, "token"}, {r.Groups, "group"}, {r.Members, "membership"}, {r.Grants, "grant"}, {r.Services, "service"}, {r.Keys, "key"}} {
		if made.n > 0 {
			parts = append(parts, cli.Count(made.n, made.what)+" "+did)
		}
	}
	if r.Updated > 0 {
		parts = append(parts, fmt.Sprintf("%d changed", r.Updated))
	}
	parts = append(parts, fmt.Sprintf("%d there already", r.Unchanged))
	if len(r.Kept) > 0 {
		parts = append(parts, fmt.Sprintf("%d left alone", len(r.Kept)))
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(parts, ", ")+".")
	return err
}

// openImport opens a file, "-" for stdin, and unpacks it when it is gzip, as exports
// to S3 are. More than 256 MiB is an error of the reader.
func openImport(cmd *cobra.Command, name string) (io.Reader, func() error, error) {
	done := func() error { return nil }
	in := cli.Input(cmd)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, nil, err
		}
		in, done = f, f.Close
	}
	buffered := bufio.NewReader(in)
	in = buffered
	if magic, err := buffered.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unpacked, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", name, err), done())
		}
		in = unpacked
	}
	return imports.Bounded(in), done, nil
}

func newImportHtpasswdCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "htpasswd FILE",
		Short: "Take over users from a file of Apache's htpasswd",
		Long: `Take over users with their passwords from a file of Apache's htpasswd (- is stdin). Only bcrypt hashes
can be taken over (htpasswd -B). When a line has another hash, or the name of a user who signs in
elsewhere, nothing is imported, and the message says which lines and what to do.

A user who is there already keeps the password, so that the file can be imported again after people
have changed theirs; with --replace the file wins.`,
		Example: `  berth import htpasswd users.htpasswd --dry-run
  berth import htpasswd users.htpasswd --replace`,
		Args: cobra.ExactArgs(1),
	}
	f := addImportFlags(c)
	replace := c.Flags().Bool("replace", false, "give users who are there already the password of the file")
	f.adminsFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		in, done, err := openImport(cmd, args[0])
		if err != nil {
			return err
		}
		return errors.Join(f.run(metadata.SourceLocal, func(ctx context.Context, l *local, o imports.Options) (imports.Report, error) {
			return imports.Htpasswd(ctx, o, args[0], in, *replace)
		}), done())
	}
	return c
}

func newImportDimsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dims FILE",
		Short: "Take over the tokens of d.ims.io",
		Long: `Take over the tokens of d.ims.io, so that docker configurations that hold them go on working. FILE
(- is stdin, gzip is unpacked) is an export of its DynamoDB table, with the fields Token and User: JSON
as 'aws dynamodb scan' or an export to S3 gives it, or CSV.

Each token becomes a personal token of its user, who is made when there is none: without a password, or
with --source for an outside provider, which then takes the user over at the first sign-in. A user of
that name who is here from another source is somebody else, and gets nothing. With --source ldap and
the directory in the settings, the directory says how a name is written, and whether it has it. What a
token may do is what its user may do: nothing, until the user is in a team or has a grant. Only the hash of a
token is stored. Tokens that somebody deleted here since come back when the file is imported again.`,
		Example: `  aws dynamodb scan --table-name d.ims.io.tokens > tokens.json && berth import dims tokens.json --dry-run
  berth import dims tokens.json --source ldap
  berth import dims tokens.csv --actions pull,push`,
		Args: cobra.ExactArgs(1),
	}
	f := addImportFlags(c)
	source := c.Flags().String("source", metadata.SourceLocal, "who vouches for the users that are made: local, or the name of a provider, such as ldap")
	actions := c.Flags().StringSlice("actions", auth.AllActions.Names(), "what the tokens carry at most: pull, push, delete, admin")
	f.adminsFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		carried, err := auth.ParseActions(*actions)
		if err != nil {
			return cli.Usagef("--actions: %s", oci.Message(err))
		}
		if err := client.NameArgument("source", *source); err != nil {
			return err
		}
		in, done, err := openImport(cmd, args[0])
		if err != nil {
			return err
		}
		return errors.Join(f.run(*source, func(ctx context.Context, l *local, o imports.Options) (imports.Report, error) {
			if *source == "ldap" && o.Canonical == nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "the directory cannot be asked with these settings (ldap_url, and no ldap_user_dn), so names are taken as they are written")
			}
			return imports.Dims(ctx, o, args[0], in, carried)
		}), done())
	}
	return c
}

func newImportDockitCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dockit [SOURCE]",
		Short: "Take over users, groups, rights and the key from Dockit's database",
		Long: `Take over users with their passwords, groups, memberships and permissions from Dockit's database,
and with --service its signing key. SOURCE is its SQLite file, or mysql://USER:PASSWORD@HOST:3306/NAME;
without it, what DOCKIT_SQL_DIALECT and DOCKIT_SQL_DSN say. A dump of MySQL has to be loaded into a
server first.

With --service, the registry of this name goes on with the certificates that it has: the service is
made with the issuer dockit, and Dockit's key signs for it.

Everything is taken over or nothing. What is there already stays as it is, so that the import can be
repeated.`,
		Example: `  berth import dockit /var/lib/dockit/dockit.sqlite --dry-run
  berth import dockit dockit.sqlite --service registry.example.com
  DOCKIT_SQL_DIALECT=mysql DOCKIT_SQL_DSN='dockit:secret@tcp(db:3306)/dockit' berth import dockit`,
		Args: cobra.MaximumNArgs(1),
	}
	f := addImportFlags(c)
	services := c.Flags().StringSlice("service", nil, "a registry that trusts Dockit's key, as its setting service names it; can be repeated")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		source, err := dockitSource(args)
		if err != nil {
			return err
		}
		return f.run(metadata.SourceLocal, func(ctx context.Context, l *local, o imports.Options) (imports.Report, error) {
			return imports.Dockit(ctx, o, source, *services, l.config.KeyCertificateLife)
		})
	}
	return c
}

// dockitSource is the database to read: the argument, or Dockit's own variables.
func dockitSource(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	dsn := client.FirstEnv("DOCKIT_SQL_DSN", "SQL_DSN")
	if dsn == "" {
		return "", cli.Usagef("name Dockit's SQLite file or mysql:// URL, or set DOCKIT_SQL_DIALECT and DOCKIT_SQL_DSN as for Dockit")
	}
	if client.FirstEnv("DOCKIT_SQL_DIALECT", "SQL_DIALECT") == "mysql" {
		return "mysql://" + dsn, nil
	}
	return dsn, nil
}
