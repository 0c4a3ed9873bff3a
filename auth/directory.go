package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"berth/metadata"
	"berth/oci"
)

// Identity is what an outside provider (LDAP, OAuth2, OIDC) vouches for. All of
// it counts anew at each sign-in: what is not named any more is taken away.
type Identity struct {
	// Provider is the name of who vouches, such as "ldap".
	Provider string
	// Subject is the provider's own id of the user, one that it gives to nobody
	// else later: an OIDC sub, an LDAP entryUUID.
	Subject string
	// Name is the user's name here, when this is the first sign-in; later the name
	// stays, whatever the provider says.
	Name string
	// Admin gives the role admin.
	Admin bool
	// Teams are roles (reader, member, maintainer) by team; the teams need no row.
	Teams map[string]string
	// Groups are names of groups; those that have no row here have no grants.
	Groups []string
	// Claims are facts for the audit log and the provenance of tags; see Principal.
	Claims map[string]string
}

// Bounds of what a provider may say of one user.
const (
	maxProviderTeams  = 1000
	maxProviderGroups = 2000
)

// Directory makes principals of the users whom outside providers vouch for. A
// user gets a row at the first sign-in, so that tokens, grants and the audit log
// can refer to it. Safe for concurrent use.
type Directory struct {
	db    *metadata.DB
	log   *slog.Logger
	clock func() time.Time
}

// NewDirectory makes a Directory. A nil logger discards, a nil clock is time.Now.
func NewDirectory(db *metadata.DB, log *slog.Logger, clock func() time.Time) *Directory {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if clock == nil {
		clock = time.Now
	}
	return &Directory{db: db, log: log, clock: clock}
}

// SignIn stores what a provider says of a user who just signed in there, and
// gives the principal. It reads once, and writes only what has changed. The error
// is ErrWrong for a user who is disabled here, for a name that cannot be a user's
// or that is somebody else's; any other error says that it cannot be done now.
func (d *Directory) SignIn(ctx context.Context, id Identity) (Principal, error) {
	e, err := external(id)
	if err != nil {
		return Principal{}, err
	}
	var (
		u    metadata.User
		same bool
	)
	err = d.db.View(ctx, func(tx *metadata.Tx) (err error) {
		u, same, err = tx.ExternalUserOf(ctx, e)
		return err
	})
	switch {
	case err != nil && !errors.Is(err, oci.ErrNotFound):
		return Principal{}, fmt.Errorf("reading the user %s of %s: %w", id.Name, id.Provider, err)
	case err != nil || !same:
		if err != nil && IsReserved(id.Name) {
			return Principal{}, Wrongf("%s vouches for %s, but this name is reserved here and no user's", id.Provider, id.Name)
		}
		err = d.db.Update(ctx, func(tx *metadata.Tx) (err error) {
			u, err = tx.PutExternalUser(ctx, e)
			return err
		})
		if errors.Is(err, oci.ErrConflict) {
			return Principal{}, Wrongf("%s vouches for %s, but this name belongs to another user of this registry, or differs from one in upper and lower case only: ask an administrator", id.Provider, id.Name)
		}
		if err != nil {
			return Principal{}, fmt.Errorf("storing the user %s of %s: %w", id.Name, id.Provider, err)
		}
	case u.SeenAt == nil || d.clock().Sub(*u.SeenAt) > touchEvery:
		// Only how fresh the facts are: nobody is refused because it was not noted.
		err := d.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.TouchUser(ctx, u.ID) })
		if err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "a sign-in was not noted", "user", u.Name, "error", err)
		}
	}
	if u.Disabled {
		return Principal{}, errDisabled(u)
	}
	p := userPrincipal(u)
	p.Claims = id.Claims
	return p, nil
}

// Recall gives the principal of an earlier SignIn, with the role that the user has
// today: for providers that remember whom they vouched for. One query. The error is
// ErrWrong for a user who is disabled here by now, and ErrNotMine when there is no
// such user any more, who has to sign in anew.
func (d *Directory) Recall(ctx context.Context, p Principal) (Principal, error) {
	var u metadata.User
	err := d.db.View(ctx, func(tx *metadata.Tx) (err error) {
		u, err = tx.UserByID(ctx, p.ID)
		return err
	})
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return Principal{}, ErrNotMine
	case err != nil:
		return Principal{}, fmt.Errorf("reading the user %s: %w", p.Name, err)
	case u.Disabled:
		return Principal{}, errDisabled(u)
	}
	p.Name, p.Admin = u.Name, u.IsAdmin()
	return p, nil
}

func errDisabled(u metadata.User) error {
	return Wrongf("the user %s is disabled, ask an administrator of this registry", u.Name)
}

func errStale(u metadata.User) error {
	return Wrongf("the identity provider has not vouched for %s for too long, sign in there again", u.Name)
}

// external checks an identity and brings it into the form that is stored.
func external(id Identity) (e metadata.ExternalUser, err error) {
	if id.Provider == "" || id.Provider == metadata.SourceLocal || id.Subject == "" {
		return e, fmt.Errorf("the identity of %q lacks provider or subject", id.Name)
	}
	if _, err := ParseUserName(id.Name); err != nil {
		return e, Wrongf("%s vouches for %.140q, which cannot be the name of a user here: letters, digits, '.', '_', '@' and '-' can", id.Provider, id.Name)
	}
	if len(id.Teams) > maxProviderTeams || len(id.Groups) > maxProviderGroups {
		return e, fmt.Errorf("%s names %d teams and %d groups for %s, the limits are %d and %d", id.Provider, len(id.Teams), len(id.Groups), id.Name, maxProviderTeams, maxProviderGroups)
	}
	groups := slices.Clone(id.Groups)
	slices.Sort(groups)
	teams := maps.Clone(id.Teams)
	if teams == nil {
		teams = map[string]string{}
	}
	for team, role := range teams {
		if role != metadata.RoleReader && role != metadata.RoleMember && role != metadata.RoleMaintainer {
			return e, fmt.Errorf("%s gives %s the role %q in the team %s, which is none", id.Provider, id.Name, role, team)
		}
	}
	return metadata.ExternalUser{
		Source: id.Provider, Subject: id.Subject, Name: id.Name, Admin: id.Admin,
		Teams: teams, Groups: slices.Compact(groups),
	}, nil
}
