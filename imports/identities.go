package imports

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/people"
)

// identities tells whose an imported record is. An identity is the pair of a source and a name: a
// record of a directory's user is nobody else's, however that one is called. Names of a directory
// can be written in any case; the directory says which is its own.
type identities struct {
	source string
	admins bool                                          // records may be those of administrators
	ask    func(context.Context, string) (string, error) // the directory; nil when it cannot be asked

	asked map[string]string          // the directory's name, by the name as it is written
	users map[string][]metadata.User // those that are here, by the name in lower case
	seen  map[string]string          // the name of an earlier record, by the name in lower case
}

// newIdentities reads who is here.
func newIdentities(ctx context.Context, o Options) (*identities, error) {
	i := &identities{source: o.Source, admins: o.Admins, ask: o.Canonical,
		asked: map[string]string{}, users: map[string][]metadata.User{}, seen: map[string]string{}}
	for after := ""; ; {
		page, err := o.People.Users(ctx, after, 1000)
		if err != nil || len(page) == 0 {
			return i, err
		}
		for _, u := range page {
			key := strings.ToLower(u.Name)
			i.users[key] = append(i.users[key], u)
		}
		after = page[len(page)-1].Name
	}
}

// badRecord is why a record is nobody's who could get it.
type badRecord struct{ why string }

func (b *badRecord) Error() string { return b.why }

func badf(format string, args ...any) error { return &badRecord{fmt.Sprintf(format, args...)} }

// nameOf gives the name of the user here whom a record with this name is about, who need not be
// there yet. The error is a *badRecord, or the directory's when it cannot be asked now. credential
// says that the record lets somebody sign in.
func (i *identities) nameOf(ctx context.Context, written string, credential bool) (string, error) {
	name := written
	if i.ask != nil {
		known, ok := i.asked[written]
		if !ok {
			var err error
			known, err = i.ask(ctx, written)
			if err != nil && !errors.Is(err, auth.ErrNotMine) {
				return "", fmt.Errorf("asking the directory about %s: %w", written, err)
			}
			i.asked[written] = known // "" for nobody
		}
		if known == "" {
			return "", badf("the directory has no user %s", written)
		}
		name = known
	}
	if _, err := auth.ParseUserName(name); err != nil {
		return "", badf("%s", oci.Message(err))
	}
	key := strings.ToLower(name)
	here := i.users[key]
	if len(here) == 0 {
		if err := auth.CheckNewUser(name); err != nil {
			return "", badf("%s", oci.Message(err))
		}
		if first, ok := i.seen[key]; ok && first != name {
			return "", badf("%s and %s differ in case only: write one of them everywhere", name, first)
		}
		i.seen[key] = name
		return name, nil
	}
	var user *metadata.User
	for n := range here {
		if here[n].Name == name {
			user = &here[n]
		}
	}
	switch {
	case user != nil:
	case len(here) > 1:
		return "", badf("%s differs in case only from several users here: write the name of one of them", name)
	case here[0].Source != i.source || i.source == metadata.SourceLocal:
		return "", badf("%s differs in case only from %s, who is here (source %s): who is meant?", name, here[0].Name, here[0].Source)
	default: // a directory's names have no case
		user = &here[0]
	}
	if user.Source != i.source {
		return "", badf("the user %s here is of the source %s, and not %s: it is somebody else, who gets nothing of this record", user.Name, user.Source, i.source)
	}
	if credential && user.IsAdmin() && !i.admins {
		return "", badf("%s administers this registry, and whoever has this record would too: remove it, or say --admins", user.Name)
	}
	return user.Name, nil
}

// whose is the user of a name that nameOf gave, or NOT_FOUND. Somebody who came between is
// nobody's: that is an error.
func (i *identities) whose(ctx context.Context, b *people.Batch, name string) (metadata.User, error) {
	u, err := b.LockUser(ctx, name)
	if err == nil && u.Source != i.source {
		return u, oci.Errorf(oci.CodeConflict, "the user %s was just made, of the source %s: run the import again", name, u.Source)
	}
	return u, err
}

// sortRecords divides records into those that can be imported, with their user's name set, and the
// problems of the others: each begins with what where gives.
func sortRecords[T any](ctx context.Context, i *identities, records []T, where func(T) string, name func(*T) *string, credential func(T) bool) (good []T, problems []error, err error) {
	for _, record := range records {
		field := name(&record)
		found, err := i.nameOf(ctx, *field, credential(record))
		var bad *badRecord
		switch {
		case errors.As(err, &bad):
			problems = append(problems, fmt.Errorf("%s: %w", where(record), bad))
		case err != nil:
			return nil, nil, err
		default:
			*field = found
			good = append(good, record)
		}
	}
	return good, problems, nil
}
