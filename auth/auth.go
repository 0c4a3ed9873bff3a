// Package auth answers three questions and enforces nothing.
//
//   - Who is this? An [Authenticator] turns [Credentials] into a [Principal]; a [Chain] asks
//     several of them in turn.
//   - What may they do to a repository? [Policy] alone decides which [Actions] a principal has.
//   - What may they manage? manage.go has one table of operations and who may call each.
//
// A token never carries more than its owner has; limits.go says how far a credential reaches.
// [Actor] is who makes a change, as package people and package registry take it.
//
// Enforcement is in server/access.go. The registry's own bearer tokens (JWT) are in the package
// auth/token. Start with [Principal], then policy.go.
package auth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"berth/oci"
)

// Kind says what sort of principal somebody is.
type Kind string

// The kinds of principals.
const (
	// KindAnonymous is somebody who showed no credentials.
	KindAnonymous Kind = "anonymous"
	// KindUser is a person, signed in by password, by personal token or by an
	// outside identity provider.
	KindUser Kind = "user"
	// KindRobot is a token that belongs to a team and not to a person.
	KindRobot Kind = "robot"
	// KindMachine is a machine whose platform vouches for it (an AWS instance), and
	// that belongs to no team. Its rights are its Limit.
	KindMachine Kind = "machine"
)

// Principal is who makes a request. It is a value: copy it freely. The zero
// value is nobody and may do nothing; use Anonymous for a caller without
// credentials.
type Principal struct {
	Kind Kind
	// ID is the row of the user, or of the token for a robot. A robot that a trust
	// policy made and a machine have none.
	ID int64
	// Name is the user's name, the robot's name within its team, or what the
	// platform calls a machine, which has a colon ("aws:123456789012").
	Name string
	// Admin is the site role of a user. Read it through IsAdmin, for a token
	// may hold less than its owner.
	Admin bool
	// TeamID and Team are the team of a robot, and empty for others.
	TeamID int64
	Team   string
	// TokenID is the row of the token (berth_...) that was shown, and SecretID that of
	// its secret; 0 when there was none.
	TokenID  int64
	SecretID int64
	// TrustID is the row of the trust policy by which a job signed in, and 0 when it
	// was none.
	TrustID int64
	// RemoteAddr is the address from which the principal asks this time, with or
	// without a port, and "" when it is not known. It is not part of who they are
	// and does not travel in tokens.
	RemoteAddr string
	// Limit narrows what the credential carries; nil is no limit. Robots and
	// machines always have one.
	Limit *Limit
	// Everywhere are actions that the provider allows with this credential in the
	// namespaces of all teams (Pier One's scope application.write_all), on top of the
	// user's own rights. It is never administration.
	Everywhere Actions
	// AskTeams says that the database does not have the user's teams, because the
	// provider answers about one team at a time: Policy asks its TeamService.
	AskTeams bool
	// Claims are what the identity provider said about this sign-in and is worth
	// keeping: the audit log shows it, and the history of tags as provenance. At
	// most MaxClaims of MaxClaimSize bytes; never a secret. It is shared: do not
	// change it.
	Claims map[string]string
	// Expires is when the credential ends by which this principal is known; zero is
	// one that somebody has to end. No token that is made for the principal lives
	// longer, and what it gives to somebody ends by then too: see MayGive.
	Expires time.Time
	// Person says that the credential that ends is a user's own sign-in at the provider
	// (an ID token, a session of the browser) and was not handed to a program to act
	// for the user. See MayGive.
	Person bool
}

// Bounds of Principal.Claims.
const (
	MaxClaims    = 16
	MaxClaimSize = 512
)

// parseAddress reads a caller's address, with or without a port. IPv4 in IPv6
// is IPv4, so that a network of the one kind is not escaped by the other.
func parseAddress(s string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	address, err := netip.ParseAddr(s)
	return address.Unmap().WithZone(""), err == nil
}

// Anonymous is the principal without credentials.
func Anonymous() Principal { return Principal{Kind: KindAnonymous} }

// IsAnonymous reports whether the principal showed no credentials.
func (p Principal) IsAnonymous() bool {
	return p.Kind != KindUser && p.Kind != KindRobot && p.Kind != KindMachine
}

// IsAdmin reports whether the principal administers the whole instance: a
// user with the admin role, whose token, if there is one, is not narrower
// than the admin action on every repository.
func (p Principal) IsAdmin() bool { return p.Kind == KindUser && p.Admin && p.Limit.whole() }

// MayManage reports whether the credential may be used for the management API
// at all: it is signed in, and a token carries the admin action. What may be
// managed with it is decided there for each operation.
func (p Principal) MayManage() bool {
	return !p.IsAnonymous() && (p.Limit == nil || p.Limit.Actions.Has(Admin))
}

// String is the name that logs, history and errors show: "alice",
// "team+robot", "aws:123456789012" or "anonymous". It is unique among principals,
// because [ParseUserName] allows neither '+' nor ':' nor "anonymous" as a user's name.
func (p Principal) String() string {
	switch p.Kind {
	case KindUser:
		return p.Name
	case KindRobot:
		return p.Team + "+" + p.Name
	case KindMachine:
		return p.Name
	}
	return string(KindAnonymous)
}

// Bounds of a user name, in bytes.
const maxUserName = 128

// ParseUserName checks the name of a user: 1 to 128 letters, digits and
// "._@-", beginning with a letter or a digit, and not "anonymous". Sessions,
// history and logs know a principal by its name, so a user's name must not
// look like a robot's (team+robot). The error is an INVALID.
func ParseUserName(s string) (string, error) {
	ok := s != "" && len(s) <= maxUserName && alphanumeric(s[0])
	for i := 0; ok && i < len(s); i++ {
		ok = alphanumeric(s[i]) || strings.IndexByte("._@-", s[i]) >= 0
	}
	if !ok {
		return "", oci.Errorf(oci.CodeInvalid, "the user name %.140q is not valid: use 1 to %d letters, digits, '.', '_', '@' or '-', starting with a letter or a digit", s, maxUserName)
	}
	if strings.EqualFold(s, string(KindAnonymous)) {
		return "", oci.Errorf(oci.CodeInvalid, "the user name %q is reserved, choose another", s)
	}
	return s, nil
}

// reservedUsers mean something else than a user: who has not signed in, and the user
// names that come with tokens of other identity providers.
var reservedUsers = []string{string(KindAnonymous), "oauth2", "oidc", "token", "instance-identity-document"}

// IsReserved reports whether a name is one that no new user, team or token may have.
func IsReserved(name string) bool {
	return slices.ContainsFunc(reservedUsers, func(r string) bool { return strings.EqualFold(r, name) })
}

// CheckNewUser checks the name of a user who is about to be made: ParseUserName, and
// not reserved. The error is an INVALID.
func CheckNewUser(name string) error {
	if _, err := ParseUserName(name); err != nil {
		return err
	}
	if IsReserved(name) {
		return oci.Errorf(oci.CodeInvalid, "the user name %q is reserved: choose another one", name)
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// Actions is a set of what may be done with a repository.
type Actions uint8

// The actions. Each of them stands alone: push does not include pull.
const (
	Pull Actions = 1 << iota
	Push
	Delete
	// Admin changes a repository's settings, and is what the management API
	// asks of a token.
	Admin

	// AllActions is the set of every action.
	AllActions = Pull | Push | Delete | Admin
)

var actionNames = [...]struct {
	action Actions
	name   string
}{{Pull, "pull"}, {Push, "push"}, {Delete, "delete"}, {Admin, "admin"}}

// Has reports whether the set holds all the wanted actions.
func (a Actions) Has(want Actions) bool { return a&want == want }

// Names lists the set in a fixed order: pull, push, delete, admin.
func (a Actions) Names() []string {
	names := make([]string, 0, len(actionNames))
	for _, n := range actionNames {
		if a.Has(n.action) {
			names = append(names, n.name)
		}
	}
	return names
}

// String joins Names with commas, as scopes write them.
func (a Actions) String() string { return strings.Join(a.Names(), ",") }

// ParseAction reads the name of one action; ok is false for any other word.
func ParseAction(name string) (action Actions, ok bool) {
	for _, n := range actionNames {
		if n.name == name {
			return n.action, true
		}
	}
	return 0, false
}

// ParseActions reads a list of action names, such as a token's. The error is
// an INVALID that names the word.
func ParseActions(names []string) (Actions, error) {
	var set Actions
	for _, name := range names {
		a, ok := ParseAction(name)
		if !ok {
			return 0, oci.Errorf(oci.CodeInvalid, "there is no action %.40q: use pull, push, delete or admin", name)
		}
		set |= a
	}
	return set, nil
}

// Credentials are what a request showed. Either Bearer is set, or Username
// and Password.
type Credentials struct {
	Username, Password string
	Bearer             string
	// RemoteAddr is the caller's address, with or without a port. Failures are
	// counted per name and address.
	RemoteAddr string
	// Teams are those in whose repositories something is asked for; none when that is not
	// known. A job that may act for several teams acts for the one of these.
	Teams []string
}

// secret is what must not be seen: the password or the bearer token.
func (c Credentials) secret() string {
	if c.Bearer != "" {
		return c.Bearer
	}
	return c.Password
}

// String and GoString keep secrets out of logs, whatever verb prints them.
func (c Credentials) String() string {
	return fmt.Sprintf("credentials of %q (secret: ***)", c.Username)
}

// GoString is String.
func (c Credentials) GoString() string { return c.String() }

// Authenticator recognises credentials. It is safe for concurrent use. The
// errors are three different answers:
//
//   - ErrNotMine (wrapped or not): this authenticator knows nothing of such
//     credentials; the next one is asked.
//   - ErrWrong (wrapped or not): the credentials are this authenticator's and
//     do not hold. Nobody else is asked.
//   - Any other error: it cannot say now. Nobody else is asked, and the caller
//     must answer 503, never 401 and never "allowed". [oci.ErrUnavailable]
//     belongs in its chain when a dependency is down. [oci.ErrDenied] in its chain is
//     the exception: the credentials hold, and whom they name may not sign in (403).
//
// authtest.Test is this contract in executable form.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (Principal, error)
}

// Recaller is an Authenticator that can recognise credentials that it verified
// before, from memory and a database row, with neither slow hashing nor a call
// to somebody else. The chain asks it when the caller is over its limit of
// failures, so that an attacker who shares the address of an honest client
// cannot lock that client out.
type Recaller interface {
	// Recall is Authenticate, but says ErrNotMine to all that would take work.
	Recall(ctx context.Context, c Credentials) (Principal, error)
}

// Unguessable is an Authenticator that takes tokens of somebody else in place of
// a password, under one user name for all. The chain does not count their failures:
// such a token cannot be guessed, and one CI job with an expired token would
// lock out all others behind the same address.
type Unguessable interface {
	// Unguessable reports whether the credentials are such a token. It looks only at
	// their form.
	Unguessable(c Credentials) bool
}

// Decoy is an Authenticator whose refusal of an existing name takes notable
// time. The chain has it spend the same when nobody knew the name, or another
// one did, so that time does not tell which names exist and where.
type Decoy interface {
	Decoy(ctx context.Context, c Credentials)
}

// ErrNotMine says that an authenticator does not know such credentials.
var ErrNotMine = errors.New("auth: these credentials are for another authenticator")

// ErrWrong says that credentials do not hold. See Wrongf.
var ErrWrong = errors.New("auth: the credentials are wrong")

// wrong is ErrWrong with a reason that the client may read.
type wrong struct {
	reason string
	rule   string // for programs; "" is "credentials"
	whose  string // whose credentials they are, when the secret was right
}

func (w *wrong) Error() string { return w.reason }
func (w *wrong) Unwrap() error { return ErrWrong }

// Wrongf makes an ErrWrong with a reason that the client may read. Give a
// reason only to somebody who proved knowledge of the secret, e.g. that a
// token has expired; never say that a name exists.
func Wrongf(format string, args ...any) error { return &wrong{reason: fmt.Sprintf(format, args...)} }

// WrongNetwork is the ErrWrong for a credential that holds, but may not be used from
// the address.
func WrongNetwork(p Principal, address string) error {
	return &wrong{
		reason: fmt.Sprintf("the token of %s may be used from %s only, and this request comes from %s: use it there, or make one for this network", p, strings.Join(p.Limit.CIDRs, ", "), address),
		rule:   "token-network", whose: p.String(),
	}
}

// WrongRule names what an ErrWrong is about, for programs: "credentials", or
// "token-network" for WrongNetwork.
func WrongRule(err error) string {
	var w *wrong
	if errors.As(err, &w) && w.rule != "" {
		return w.rule
	}
	return "credentials"
}

// WrongWhose is the name of the principal whose credentials were refused although the
// secret is right, such as that of an expired token; "" when nobody proved to be anybody.
func WrongWhose(err error) string {
	var w *wrong
	if errors.As(err, &w) {
		return w.whose
	}
	return ""
}

// WrongReason gives the reason made with Wrongf, or a text that tells nothing.
func WrongReason(err error) string {
	var w *wrong
	if errors.As(err, &w) {
		return w.reason
	}
	return "the user name or the password is wrong"
}

// ThrottledError says that a name, or an address, had too many failed sign-ins. The credentials were not checked;
// those of an address may also be wrong.
type ThrottledError struct {
	RetryAfter time.Duration
	// Address says that it were the failures of all names from the address together.
	Address bool
}

func (e *ThrottledError) Error() string {
	seconds := max(1, int(e.RetryAfter.Seconds()))
	if e.Address {
		return fmt.Sprintf("too many failed sign-ins from this address: the user name or the password is wrong, or was not looked at. Check them, and try again in %d seconds, or with a token", seconds)
	}
	return fmt.Sprintf("too many failed sign-ins with this name from this address, try again in %d seconds", seconds)
}
