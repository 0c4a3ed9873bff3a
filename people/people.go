// Package people says what changing users, teams, groups, members, grants, denials, tokens,
// trust policies, services and accounts means: the rule, the rows and the line in the audit
// log, once for every door. A door parses, calls one method here, and shapes the answer.
// Package registry does the same for repositories and what is in them.
//
// The files have the names of package metadata's files, one per noun. Every method takes who
// acts ([auth.Actor]) and a plain struct. In one transaction it checks the rule and writes the
// rows and the audit line. It returns what doors show. What doors only show is read here too,
// at the end of each file.
//
// Whether a principal may call an operation at all is decided before, by package auth
// (manage.go). That nobody gives more than the credential in use has is decided here, by
// [auth.Principal.MayGive].
//
// Start with [People] and users.go.
package people

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/oci"
)

// Options of People. DB is required.
type Options struct {
	DB *metadata.DB
	// Hasher makes the hashes of new passwords. It bounds how many are made at a
	// time, so share the one of the sign-in; nil makes one of its own.
	Hasher *auth.Hasher
	// Passwords checks the current password of users who change their own. With the
	// server's auth.Chain, guesses are limited as those at the sign-in are. Without it
	// nobody changes the own password.
	Passwords auth.Authenticator
	// Keys are those that sign tokens; services have some. Without them no service changes.
	Keys *token.Keys
	// Service is the name of the registry itself as a service: no other has it.
	Service string
	// TrustedIssuers are issuers of jobs' tokens that the settings name.
	TrustedIssuers []string
}

// People reads and changes who there is and what they may. Safe for concurrent use.
type People struct{ o Options }

// New makes People.
func New(o Options) *People {
	if o.Hasher == nil {
		o.Hasher = auth.NewHasher(0)
	}
	return &People{o}
}

// Batch does several changes in one transaction: all of them, or none. It is for imports.
// Its methods are those of People, with the reads that an import needs between its changes.
// No row can be written around them.
type Batch struct {
	tx *metadata.Tx
	o  Options
}

// Batch runs fn in one transaction, which is rolled back when fn returns an error. fn may
// run more than once.
func (p *People) Batch(ctx context.Context, fn func(*Batch) error) error {
	return p.o.DB.Update(ctx, func(tx *metadata.Tx) error { return fn(&Batch{tx, p.o}) })
}

// Now is the time of the batch.
func (b *Batch) Now() time.Time { return b.tx.Now() }

// in runs one change in a transaction of its own.
func in[T any](ctx context.Context, p *People, fn func(*Batch) (T, error)) (result T, err error) {
	err = p.Batch(ctx, func(b *Batch) (err error) {
		result, err = fn(b)
		return err
	})
	return result, err
}

// view reads by one statement, or by several that need not see the same moment.
func view[T any](ctx context.Context, p *People, read func(*metadata.Tx) (T, error)) (result T, err error) {
	err = p.o.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		result, err = read(tx)
		return err
	})
	return result, err
}

// snapshot reads as it is at one moment, for what takes more than one statement.
func snapshot[T any](ctx context.Context, p *People, read func(*metadata.Tx) (T, error)) (result T, err error) {
	err = p.o.DB.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		result, err = read(tx)
		return err
	})
	return result, err
}

// do is in for a change without a result.
func do(ctx context.Context, p *People, fn func(*Batch) error) error { return p.Batch(ctx, fn) }

// Params are the names that a change is about, by the words of the management API's paths:
// team, user, group, token, pattern and so on.
type Params map[string]string

// record writes the line of the audit log, in the transaction of the change. action is the
// operation id of the management API, whatever the door; fields are what was asked for, as
// a struct whose secrets are masked, or nil.
func (b *Batch) record(ctx context.Context, by auth.Actor, action string, params Params, fields any) error {
	return b.tx.Record(ctx, Event(by.Audit, action, params, fields))
}

// Event is what the audit log tells of a change; see record.
func Event(actor metadata.Actor, action string, params Params, fields any) metadata.Event {
	e := metadata.Event{Kind: metadata.EventKind(action), Actor: actor, Team: params["team"], Repository: params["repository"], Detail: map[string]any{}}
	path := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		value := params[name]
		switch name {
		case "team", "repository":
		case "user", "group":
			// Of a member, a token or a grant, it is where that belongs.
			path[name] = value
			if e.Reference == "" {
				e.Reference = value
			}
		default:
			path[name] = value
			e.Reference = value
		}
	}
	if len(path) > 0 {
		e.Detail["path"] = path
	}
	if asked := fieldsOf(fields); len(asked) > 0 {
		e.Detail["fields"] = asked
		// What is made has its name in the fields and not in the path.
		if name, ok := asked["name"].(string); ok && e.Reference == "" && name != masked {
			e.Reference = name
		}
	}
	return e
}

// secretNames are the names of fields whose values no log may hold. It takes too
// many rather than too few.
var secretNames = regexp.MustCompile(`(?i)passw|secret|token$|private|key|pem|credential|hash`)

// masked stands for a secret.
const masked = "***"

// fieldsOf gives the fields of a struct as its JSON has them, with secrets masked.
func fieldsOf(v any) map[string]any {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var fields map[string]any
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	mask(fields)
	return fields
}

func mask(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if secretNames.MatchString(name) {
				v[name] = masked
			} else {
				mask(value)
			}
		}
	case []any:
		for _, item := range v {
			mask(item)
		}
	}
}

// adopt gives a team that only a provider knows its row, before something in it changes.
func (b *Batch) adopt(ctx context.Context, by auth.Actor, team string) error {
	return b.tx.AdoptTeam(ctx, team, by.Audit)
}

// check runs a condition of the caller, such as If-Match, on what there is before a
// change. nil sets no condition.
func check[T any](condition func(T) error, before T) error {
	if condition == nil {
		return nil
	}
	return condition(before)
}

func isNotFound(err error) bool { return errors.Is(err, oci.ErrNotFound) }

// maxName bounds the names of users, teams and tokens, in bytes.
const maxName = 128

// ParseName checks the name of a new user, team, token or robot, as the management API
// takes it. It has the grammar of one path component of a repository (distribution-spec,
// "Pulling manifests"): a team's name is one, and a user's gets a namespace of its own the
// day somebody asks for it. The error is an INVALID.
func ParseName(what, name string) error {
	switch _, err := oci.ParseName(name); {
	case err != nil, strings.Contains(name, "/"), len(name) > maxName:
		return oci.Errorf(oci.CodeInvalid, "the %s name %.140q is not valid: use at most %d lower-case letters and digits, separated by '.', '_' or '-'", what, name, maxName)
	case auth.IsReserved(name):
		return oci.Errorf(oci.CodeInvalid, "the %s name %q is reserved: choose another one", what, name)
	}
	return nil
}

// parsePatterns checks patterns on the names of repositories and on tags. The error is an INVALID.
func parsePatterns(repositories, tags string) error {
	if !oci.IsRepositoryGlob(repositories) {
		return oci.Errorf(oci.CodeInvalid, "the pattern %.140q cannot match a repository: use the characters of their names, '*' and '?'", repositories)
	}
	if tags != "" && !oci.IsTagGlob(tags) {
		return oci.Errorf(oci.CodeInvalid, "the pattern %.140q cannot match a tag: use the characters of tags, '*' and '?'", tags)
	}
	return nil
}

// limit is what actions on the repositories of a pattern open.
func limit(repositories string, actions []string) (auth.Limit, error) {
	set, err := auth.ParseActions(actions)
	if err != nil {
		return auth.Limit{}, fmt.Errorf("the actions %s: %w", strings.Join(actions, ","), err)
	}
	return auth.Limit{Repositories: repositories, Actions: set}, nil
}
