package operate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"berth/auth"
	"berth/cmd/berth/cli"
	"berth/metadata"
	"berth/oci"
	"berth/people"
)

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
		entries, problems, err := readHtpasswd(args[0], in)
		if err := errors.Join(err, done()); err != nil {
			return err
		}
		return runLocal(cmd, false, func(ctx context.Context, l *local) error {
			who, done, err := newIdentities(ctx, l, metadata.SourceLocal, f.admins)
			if err != nil {
				return err
			}
			entries, strangers, err := sortRecords(ctx, who, entries, func(e htpasswdEntry) string { return fmt.Sprintf("line %d", e.line) },
				func(e *htpasswdEntry) *string { return &e.name }, func(htpasswdEntry) bool { return *replace })
			if err := errors.Join(err, done()); err != nil {
				return err
			}
			left, err := f.check(args[0], append(problems, strangers...))
			if err != nil {
				return err
			}
			report, err := importAll(ctx, l, f, entries, func(ctx context.Context, b *people.Batch, e htpasswdEntry, r *imported) error {
				return importHtpasswd(ctx, b, e, who, *replace, r)
			})
			if err != nil {
				return err
			}
			report.Kept = append(left, report.Kept...)
			return f.print(cmd, report)
		})
	}
	return c
}

type htpasswdEntry struct {
	line       int
	name, hash string
}

// maxHtpasswdLine bounds a line, in bytes.
const maxHtpasswdLine = 4096

// readHtpasswd reads name:hash lines. The problems name every line that cannot be taken
// over, and never a hash.
func readHtpasswd(file string, in io.Reader) (entries []htpasswdEntry, problems []error, err error) {
	hasher := auth.NewHasher(1)
	seen := map[string]int{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxHtpasswdLine)
	n := 0
	for lines.Scan() {
		n++
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if len(entries) == maxImportRecords {
			return nil, nil, fmt.Errorf("%s has more than %d users: divide it", file, maxImportRecords)
		}
		bad := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("line %d: "+format, append([]any{n}, args...)...))
		}
		name, hash, ok := strings.Cut(text, ":")
		if !ok {
			bad("it is not NAME:HASH")
			continue
		}
		if err := auth.CheckNewUser(name); err != nil {
			bad("%s", cli.Message(err))
			continue
		}
		if kind := otherHash(hash); kind != "" {
			bad("the password of %s is hashed by %s, which is not taken over: ask for a new one with 'htpasswd -B', or remove the line and use 'berth user create'", name, kind)
			continue
		}
		if err := hasher.Check(hash); err != nil {
			bad("%s: %s", name, cli.Message(err))
			continue
		}
		if first, ok := seen[name]; ok {
			bad("%s is in line %d too: remove one of them", name, first)
			continue
		}
		seen[name] = n
		entries = append(entries, htpasswdEntry{n, name, hash})
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("%s, line %d: %w", file, n+1, err)
	}
	return entries, problems, nil
}

// otherHash names the kind of a hash that is not bcrypt; "" is bcrypt.
func otherHash(hash string) string {
	for _, k := range []struct{ prefix, kind string }{
		{"$2a$", ""}, {"$2b$", ""}, {"$2y$", ""},
		{"$apr1$", "MD5 (apr1)"}, {"$1$", "MD5"}, {"{SHA}", "SHA-1 without a salt"}, {"{SSHA}", "SHA-1"},
		{"$5$", "SHA-256 crypt"}, {"$6$", "SHA-512 crypt"}, {"$y$", "yescrypt"},
	} {
		if strings.HasPrefix(hash, k.prefix) {
			return k.kind
		}
	}
	return "crypt(), or not at all"
}

// importHtpasswd makes a user, or leaves the one who is there alone.
func importHtpasswd(ctx context.Context, b *people.Batch, e htpasswdEntry, who *identities, replace bool, r *imported) error {
	u, err := who.whose(ctx, b.Tx, e.name)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		if _, err := b.CreateUser(ctx, importer, metadata.User{Name: e.name, PasswordHash: e.hash, Role: metadata.RoleUser}, "htpasswd"); err != nil {
			return err
		}
		r.Users++
		return nil
	case err != nil:
		return err
	case u.PasswordHash == e.hash:
		r.Unchanged++
		return nil
	case u.PasswordHash != "" && !replace:
		r.Kept = append(r.Kept, fmt.Sprintf("line %d: %s has another password here, which stays (use --replace to change it)", e.line, e.name))
		return nil
	}
	if err := b.SetPassword(ctx, importer, e.name, e.hash, "htpasswd"); err != nil {
		return err
	}
	r.Updated++
	return nil
}
