package imports

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/people"
)

// Htpasswd takes users over from a file of Apache's htpasswd. A user who is there keeps the
// password, unless replace is set.
func Htpasswd(ctx context.Context, o Options, name string, in io.Reader, replace bool) (Report, error) {
	entries, problems, err := readHtpasswd(name, in)
	if err != nil {
		return Report{}, err
	}
	who, err := newIdentities(ctx, o)
	if err != nil {
		return Report{}, err
	}
	entries, strangers, err := sortRecords(ctx, who, entries, func(e htpasswdEntry) string { return fmt.Sprintf("line %d", e.line) },
		func(e *htpasswdEntry) *string { return &e.name }, func(htpasswdEntry) bool { return replace })
	if err != nil {
		return Report{}, err
	}
	left, err := o.left(name, append(problems, strangers...))
	if err != nil {
		return Report{}, err
	}
	report, err := inBatches(ctx, o, entries, func(ctx context.Context, b *people.Batch, e htpasswdEntry, r *Report) error {
		return importHtpasswd(ctx, b, e, who, replace, r)
	})
	report.Kept = append(left, report.Kept...)
	return report, err
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
		if len(entries) == maxRecords {
			return nil, nil, fmt.Errorf("%s has more than %d users: divide it", file, maxRecords)
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
			bad("%s", oci.Message(err))
			continue
		}
		if kind := otherHash(hash); kind != "" {
			bad("the password of %s is hashed by %s, which is not taken over: ask for a new one with 'htpasswd -B', or remove the line and use 'berth user create'", name, kind)
			continue
		}
		if err := hasher.Check(hash); err != nil {
			bad("%s: %s", name, oci.Message(err))
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
func importHtpasswd(ctx context.Context, b *people.Batch, e htpasswdEntry, who *identities, replace bool, r *Report) error {
	u, err := who.whose(ctx, b, e.name)
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
