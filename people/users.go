package people

import (
	"context"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// Bounds of a password, in bytes.
const (
	MinPassword = 8
	MaxPassword = 1024
)

// CheckPassword says whether a new password may be one. The error is an INVALID.
func CheckPassword(password string) error {
	if n := len(password); n < MinPassword || n > MaxPassword {
		return oci.Errorf(oci.CodeInvalid, "the password has %d characters: use %d to %d", n, MinPassword, MaxPassword)
	}
	return nil
}

// NewUser is a user to be made.
type NewUser struct {
	Name     string  `json:"name"`
	Password *string `json:"password,omitempty"` // nil signs in by other means only
	Role     *string `json:"role,omitempty"`     // nil is metadata.RoleUser
}

// userRight is what somebody gets who becomes a user with a role.
func userRight(role string) auth.Right {
	right := auth.Right{What: "a user", Limit: auth.Limit{Repositories: "*", Actions: auth.Pull}}
	if role == metadata.RoleAdmin {
		right.Limit = auth.Everything()
	}
	return right
}

// CreateUser makes a user. It returns INVALID for the name or the password, DENIED, or
// CONFLICT when the name is taken.
func (p *People) CreateUser(ctx context.Context, by auth.Actor, n NewUser) (metadata.User, error) {
	user := metadata.User{Name: n.Name, Role: metadata.RoleUser}
	if n.Role != nil {
		user.Role = *n.Role
	}
	// What is refused is refused before the work of a hash.
	if err := by.MayGive(userRight(user.Role)); err != nil {
		return user, err
	}
	if n.Password != nil {
		var err error
		if user.PasswordHash, err = p.hash(ctx, *n.Password); err != nil {
			return user, err
		}
	}
	return in(ctx, p, func(b *Batch) (metadata.User, error) { return b.createUser(ctx, by, user, n) })
}

// hash checks and hashes a new password.
func (p *People) hash(ctx context.Context, password string) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	return p.o.Hasher.Hash(ctx, password)
}

// CreateUser makes a user whose password was hashed elsewhere; "" is none. The errors are
// those of People.CreateUser.
func (b *Batch) CreateUser(ctx context.Context, by auth.Actor, u metadata.User, from string) (metadata.User, error) {
	return b.createUser(ctx, by, u, struct {
		Name string `json:"name"`
		Role string `json:"role"`
		From string `json:"from"`
	}{u.Name, u.Role, from})
}

func (b *Batch) createUser(ctx context.Context, by auth.Actor, u metadata.User, fields any) (metadata.User, error) {
	if err := auth.CheckNewUser(u.Name); err != nil {
		return u, err
	}
	if err := by.MayGive(userRight(u.Role)); err != nil {
		return u, err
	}
	made, err := b.tx.CreateUser(ctx, u)
	if err != nil {
		return u, err
	}
	return made, b.record(ctx, by, "createUser", nil, fields)
}

// UserChange says what to change of a user; nil leaves a field as it is.
type UserChange struct {
	Role     *string `json:"role,omitempty"`
	Disabled *bool   `json:"disabled,omitempty"`

	If func(before metadata.User) error `json:"-"`
}

// UpdateUser changes role and state. It returns NOT_FOUND, DENIED, or CONFLICT when no
// enabled admin would be left.
func (p *People) UpdateUser(ctx context.Context, by auth.Actor, name string, c UserChange) (metadata.User, error) {
	return in(ctx, p, func(b *Batch) (user metadata.User, err error) {
		before, err := b.tx.LockUser(ctx, name)
		if err != nil {
			return user, err
		}
		if err := check(c.If, before); err != nil {
			return user, err
		}
		promoted := c.Role != nil && *c.Role == metadata.RoleAdmin && before.Role != metadata.RoleAdmin
		if enabled := c.Disabled != nil && !*c.Disabled && before.Disabled; promoted || enabled {
			if err := by.MayGive(auth.Right{What: "what a user may", Limit: auth.Everything()}); err != nil {
				return user, err
			}
		}
		if user, err = b.tx.UpdateUser(ctx, name, metadata.UserChange{Role: c.Role, Disabled: c.Disabled}); err != nil {
			return user, err
		}
		return user, b.record(ctx, by, "updateUser", Params{"user": name}, c)
	})
}

// DeleteUser removes a user with memberships, tokens and grants. It returns NOT_FOUND, or
// CONFLICT when no enabled admin would be left. condition may be nil.
func (p *People) DeleteUser(ctx context.Context, by auth.Actor, name string, condition func(metadata.User) error) error {
	return do(ctx, p, func(b *Batch) error {
		before, err := b.tx.LockUser(ctx, name)
		if err != nil {
			return err
		}
		if err := check(condition, before); err != nil {
			return err
		}
		if err := b.tx.DeleteUser(ctx, name); err != nil {
			return err
		}
		return b.record(ctx, by, "deleteUser", Params{"user": name}, nil)
	})
}

// Password is a new password, with the current one when it is one's own.
type Password struct {
	New     string `json:"password"`
	Current string `json:"current_password,omitempty"`
}

// SetPassword sets a password. Users show their current one, so that a token or a session
// left open does not take the account over; failures count like failed sign-ins. It
// returns INVALID, DENIED or NOT_FOUND.
func (p *People) SetPassword(ctx context.Context, by auth.Actor, name string, w Password) error {
	switch own := by.Kind == auth.KindUser && by.ID != 0 && by.Name == name; {
	case own && w.Current == "":
		return oci.Errorf(oci.CodeInvalid, "the field \"current_password\" is missing: your own password is changed with the current one")
	case own && p.o.Passwords == nil:
		return oci.Errorf(oci.CodeUnavailable, "nobody can check the current password here")
	case own:
		if err := auth.CheckCurrent(ctx, p.o.Passwords, by.Principal, w.Current); err != nil {
			return err
		}
	default:
		if err := mayPassword(by); err != nil {
			return err
		}
	}
	hash, err := p.hash(ctx, w.New)
	if err != nil {
		return err
	}
	return do(ctx, p, func(b *Batch) error { return b.setPassword(ctx, by, name, hash, w) })
}

// mayPassword refuses to set somebody else's password: who knows it is that user.
func mayPassword(by auth.Actor) error {
	return by.MayGive(auth.Right{What: "a password", Limit: auth.Everything()})
}

// SetPassword sets the password of somebody else, which was hashed elsewhere. from is
// where it comes from, for the audit log.
func (b *Batch) SetPassword(ctx context.Context, by auth.Actor, name, hash, from string) error {
	if err := mayPassword(by); err != nil {
		return err
	}
	return b.setPassword(ctx, by, name, hash, map[string]string{"from": from})
}

func (b *Batch) setPassword(ctx context.Context, by auth.Actor, name, hash string, fields any) error {
	if _, err := b.tx.LockUser(ctx, name); err != nil {
		return err
	}
	if _, err := b.tx.UpdateUser(ctx, name, metadata.UserChange{PasswordHash: &hash}); err != nil {
		return err
	}
	return b.record(ctx, by, "setPassword", Params{"user": name}, fields)
}

// CreateFirstAdmin makes the first user, an admin with the password, and reports whether it
// did: of any number of replicas that start on an empty database one does.
func (p *People) CreateFirstAdmin(ctx context.Context, by auth.Actor, name, password string) (made bool, err error) {
	hash, err := p.hash(ctx, password)
	if err != nil {
		return false, err
	}
	return in(ctx, p, func(b *Batch) (bool, error) {
		made, err := b.tx.CreateFirstAdmin(ctx, name, hash)
		if err != nil || !made {
			return false, err
		}
		return true, b.record(ctx, by, "createUser", nil, map[string]string{"name": name, "role": metadata.RoleAdmin})
	})
}

// User gives a user's row. It returns NOT_FOUND.
func (p *People) User(ctx context.Context, name string) (metadata.User, error) {
	return view(ctx, p, func(tx *metadata.Tx) (metadata.User, error) { return tx.User(ctx, name) })
}

// HasUsers reports whether there is a user.
func (p *People) HasUsers(ctx context.Context) (bool, error) {
	return view(ctx, p, func(tx *metadata.Tx) (bool, error) { return tx.HasUsers(ctx) })
}

// Users lists users behind a name, in byte order, at most limit.
func (p *People) Users(ctx context.Context, after string, limit int) ([]metadata.User, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.User, error) { return tx.Users(ctx, after, limit) })
}

// Profile is a user with where the user belongs.
type Profile struct {
	metadata.User
	// Teams are the roles by team, whoever says so; Provided are those that the user's
	// provider says.
	Teams, Provided map[string]string
	Groups          []string
}

// Profile gives a user with teams and groups. It returns NOT_FOUND.
func (p *People) Profile(ctx context.Context, name string) (Profile, error) {
	return view(ctx, p, func(tx *metadata.Tx) (u Profile, err error) {
		if u.User, err = tx.User(ctx, name); err != nil {
			return u, err
		}
		if u.Teams, err = tx.UserTeams(ctx, u.ID); err != nil {
			return u, err
		}
		if u.Provided, _, err = tx.ProviderFacts(ctx, u.ID); err != nil {
			return u, err
		}
		u.Groups, err = tx.UserGroups(ctx, u.ID)
		return u, err
	})
}

// LockUser gives a user's row, which nobody else changes until the batch is done. It returns
// NOT_FOUND.
func (b *Batch) LockUser(ctx context.Context, name string) (metadata.User, error) {
	return b.tx.LockUser(ctx, name)
}
