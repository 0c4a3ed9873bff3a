// Package imports moves users, tokens and rights in from other systems: Apache's htpasswd, d.ims.io
// and Dockit. A file reads one system and says what its records mean here; package people makes the
// changes. Start with Options.
package imports

import (
	"context"
	"errors"
	"fmt"
	"io"

	"berth/auth"
	"berth/people"
)

// Options say how an import is made.
type Options struct {
	People *people.People
	// DryRun undoes what the import does, which the report tells as ever.
	DryRun bool
	// SkipInvalid leaves out records that cannot be imported, and names them in the report. Without
	// it they are one error, and nothing is imported.
	SkipInvalid bool
	// Admins takes records that give credentials to administrators of this registry.
	Admins bool
	// Source vouches for the users: metadata.SourceLocal, or the name of a provider.
	Source string
	// Canonical asks the directory of the source how it writes a name, or returns auth.ErrNotMine;
	// nil when it cannot be asked.
	Canonical func(ctx context.Context, name string) (string, error)
	// Progress hears how many records are done; nil for nobody.
	Progress func(done, total int)
}

// Report is what an import has done, or would do.
type Report struct {
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

// left is what becomes of records that cannot be imported: all of them are one error, or with
// SkipInvalid lines of the report.
func (o Options) left(name string, problems []error) (left []string, err error) {
	if !o.SkipInvalid {
		return nil, problemsError(name, problems)
	}
	for _, p := range problems {
		left = append(left, p.Error())
	}
	return left, nil
}

// importer is who the audit log names for what an import makes.
var importer = auth.Operator("berth import")

// batchSize is how many records one transaction takes: servers that use the same
// SQLite file wait for it.
const batchSize = 200

// errDryRun undoes a transaction whose only purpose was to see what it would do.
var errDryRun = errors.New("nothing is written in a dry run")

// inBatches gives the records to a function, some in each transaction. A dry run is undone
// after each, so it counts twice what the file has twice in different batches.
func inBatches[T any](ctx context.Context, o Options, records []T, one func(context.Context, *people.Batch, T, *Report) error) (Report, error) {
	var total Report
	all := len(records)
	for len(records) > 0 {
		n := min(batchSize, len(records))
		var r Report
		err := o.People.Batch(ctx, func(b *people.Batch) error {
			r = Report{}
			for _, record := range records[:n] {
				if err := one(ctx, b, record, &r); err != nil {
					return err
				}
			}
			if o.DryRun {
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
		if o.Progress != nil && len(records) > 0 {
			o.Progress(all-len(records), all)
		}
	}
	return total, nil
}

// Bounds of a file that is imported.
const (
	maxBytes   = 256 << 20 // unpacked
	maxRecords = 1_000_000
)

// Bounded fails when there is more than 256 MiB to read.
func Bounded(r io.Reader) io.Reader { return &boundedReader{r, maxBytes} }

// boundedReader fails when there is more than it may give.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("the file is larger than 256 MiB")
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
