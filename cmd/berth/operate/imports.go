package operate

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"berth/auth"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/settings"
	"berth/people"
	"berth/registry"
)

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

// check is what becomes of records that cannot be imported: all of them are one error, or with --skip-invalid
// lines of the report.
func (f *importFlags) check(name string, problems []error) (left []string, err error) {
	if !f.skip {
		return nil, problemsError(name, problems)
	}
	for _, p := range problems {
		left = append(left, p.Error())
	}
	return left, nil
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

// imported is what an import has done, or would do.
type imported struct {
	DryRun bool `json:"dry_run"`
	// Users and Tokens are those that were made.
	Users  int `json:"users"`
	Tokens int `json:"tokens,omitempty"`
	// What else was made.
	Groups   int `json:"groups,omitempty"`
	Members  int `json:"members,omitempty"`
	Grants   int `json:"grants,omitempty"`
	Services int `json:"services,omitempty"`
	Keys     int `json:"keys,omitempty"`
	// Updated are users who got what the file says.
	Updated int `json:"updated,omitempty"`
	// Unchanged were there already, as the file has them.
	Unchanged int `json:"unchanged"`
	// Kept are lines that were left out on purpose, and why.
	Kept []string `json:"kept,omitempty"`
}

// print writes the report, and says nothing was written after a dry run.
func (f *importFlags) print(cmd *cobra.Command, r imported) error {
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

// importer is who the audit log names for what an import makes.
var importer = auth.Operator("berth import")

// importBatch is how many records one transaction takes: servers that use the same
// SQLite file wait for it.
const importBatch = 200

// errDryRun undoes a transaction whose only purpose was to see what it would do.
var errDryRun = errors.New("nothing is written in a dry run")

// importAll gives the records to a function, some in each transaction. A dry run is undone
// after each, so it counts twice what the file has twice in different batches.
func importAll[T any](ctx context.Context, l *local, f *importFlags, records []T, one func(context.Context, *people.Batch, T, *imported) error) (imported, error) {
	var total imported
	p := cli.NewProgress(f.cmd, "importing")
	defer p.End()
	at := registry.Progress{Unit: registry.UnitItems, Total: int64(len(records))}
	for len(records) > 0 {
		n := min(importBatch, len(records))
		var r imported
		err := l.people().Batch(ctx, func(b *people.Batch) error {
			r = imported{}
			for _, record := range records[:n] {
				if err := one(ctx, b, record, &r); err != nil {
					return err
				}
			}
			if f.dryRun {
				return errDryRun
			}
			return nil
		})
		if err != nil && !errors.Is(err, errDryRun) {
			return total, err
		}
		total.Users += r.Users
		total.Tokens += r.Tokens
		total.Updated += r.Updated
		total.Unchanged += r.Unchanged
		total.Kept = append(total.Kept, r.Kept...)
		records = records[n:]
		at.Done += int64(n)
		if len(records) > 0 {
			p.Show(at, fmt.Sprintf("%d of %d records", at.Done, at.Total))
		}
	}
	return total, nil
}

// Bounds of a file that is imported.
const (
	maxImportBytes   = 256 << 20 // unpacked
	maxImportRecords = 1_000_000
)

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
	return &boundedReader{in, maxImportBytes}, done, nil
}

// boundedReader fails when there is more than it may give.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the file is larger than %s", cli.ShowBytes(maxImportBytes))
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// maxProblems is how many bad lines a message names.
const maxProblems = 20

// problemsError says what is wrong with a file; nothing of it was imported.
func problemsError(name string, problems []error) error {
	n := len(problems)
	if n == 0 {
		return nil
	}
	if n > maxProblems {
		problems = append(problems[:maxProblems:maxProblems], fmt.Errorf("and %d more", n-maxProblems))
	}
	return fmt.Errorf("%s was not imported (--skip-invalid leaves these out):\n%w", name, errors.Join(problems...))
}
