package people

import (
	"context"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// prefixes of the secrets, by the kind of their token.
var prefixes = map[string]string{
	metadata.PersonalToken: auth.PersonalPrefix,
	metadata.RobotToken:    auth.RobotPrefix,
	metadata.DeployToken:   auth.DeployPrefix,
}

// NewToken is a token to be made. Exactly one of User and Team owns it.
type NewToken struct {
	Kind         string     `json:"kind"` // one of metadata's
	Name         string     `json:"name"`
	User         string     `json:"-"`
	Team         string     `json:"-"`
	Repositories *string    `json:"repositories,omitempty"` // nil is all; for a deploy token those of the team
	Actions      []string   `json:"actions"`
	Tags         *string    `json:"tags,omitempty"`
	CIDRs        []string   `json:"cidrs,omitempty"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"`
}

// tokenRight is what somebody gets who gets the secret of a token.
func tokenRight(t metadata.Token) (auth.Right, error) {
	l, err := limit(t.Repositories, t.Actions)
	l.Tags, l.CIDRs = t.Tags, t.CIDRs
	return auth.Right{User: t.User, Expires: t.ExpiresAt, Limit: l}, err
}

func mayMint(by auth.Actor, t metadata.Token) error {
	right, err := tokenRight(t)
	if err != nil {
		return err
	}
	return by.MayGive(right)
}

// tokenParams name a token of a user or a team; the operations end in Token or Robot.
func tokenParams(user, team, name string) (noun string, params Params) {
	params = Params{}
	if name != "" {
		params["token"] = name
	}
	if team != "" {
		params["team"] = team
		return "Robot", params
	}
	params["user"] = user
	return "Token", params
}

// CreateToken makes a token of a user or a team and gives its secret, which is nowhere else
// from then on. It returns INVALID, DENIED, NOT_FOUND for the owner, or CONFLICT when the
// owner has a token of this name.
func (p *People) CreateToken(ctx context.Context, by auth.Actor, n NewToken) (t metadata.Token, secret string, err error) {
	if t, err = n.token(); err != nil {
		return t, "", err
	}
	secret, hash := auth.NewSecret(prefixes[t.Kind])
	t, err = in(ctx, p, func(b *Batch) (metadata.Token, error) { return b.createToken(ctx, by, t, hash, n) })
	return t, secret, err
}

// token checks what was asked for.
func (n NewToken) token() (t metadata.Token, err error) {
	t = metadata.Token{Kind: n.Kind, Name: n.Name, User: n.User, Team: n.Team, Repositories: "*", ExpiresAt: n.ExpiresAt}
	if err := ParseName("token", n.Name); err != nil {
		return t, err
	}
	if personal := t.Kind == metadata.PersonalToken; personal != (t.User != "") {
		return t, oci.Errorf(oci.CodeInvalid, "a %s token belongs to a team: make it there", t.Kind)
	}
	if t.Kind == metadata.DeployToken {
		t.Repositories = t.Team + "/*"
	}
	if n.Repositories != nil {
		t.Repositories = *n.Repositories
	}
	if n.Tags != nil {
		t.Tags = *n.Tags
	}
	if err := parsePatterns(t.Repositories, t.Tags); err != nil {
		return t, err
	}
	if len(n.CIDRs) > 0 {
		if t.CIDRs, err = auth.ParseCIDRs(n.CIDRs); err != nil {
			return t, err
		}
	}
	actions, err := auth.ParseActions(n.Actions)
	if err != nil {
		return t, err
	}
	if t.Kind == metadata.DeployToken && actions.Has(auth.Admin) {
		return t, oci.Errorf(oci.CodeInvalid, "a deploy token cannot carry admin: make a robot for what manages the team")
	}
	t.Actions = actions.Names()
	return t, nil
}

func (b *Batch) createToken(ctx context.Context, by auth.Actor, t metadata.Token, hash string, fields any) (metadata.Token, error) {
	if t.Team != "" {
		if err := b.adopt(ctx, by, t.Team); err != nil {
			return t, err
		}
	}
	if t.ExpiresAt != nil && !t.ExpiresAt.After(b.tx.Now()) {
		return t, oci.Errorf(oci.CodeInvalid, "the field \"expires_at\" is %s, which is not in the future", t.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if err := mayMint(by, t); err != nil {
		return t, err
	}
	t.CreatedBy = by.Audit.Name
	made, err := b.tx.CreateToken(ctx, t, hash)
	if err != nil {
		return t, err
	}
	noun, params := tokenParams(t.User, t.Team, "")
	return made, b.record(ctx, by, "create"+noun, params, fields)
}

// CreatePair makes a personal token of d.ims.io's form, for a user name and a password
// that the caller has made. It carries what the credential in use carries and ends with it;
// t gives the owner and the name. The errors are those of CreateToken.
func (p *People) CreatePair(ctx context.Context, by auth.Actor, t metadata.Token, user, password string) (metadata.Token, error) {
	t.Kind, t.Repositories, t.Actions = metadata.PersonalToken, "*", auth.AllActions.Names()
	if l := by.Limit; l != nil {
		t.Repositories, t.Actions, t.Tags, t.CIDRs = l.Repositories, l.Actions.Names(), l.Tags, l.CIDRs
	}
	if !by.Expires.IsZero() {
		t.ExpiresAt = &by.Expires
	}
	return in(ctx, p, func(b *Batch) (metadata.Token, error) {
		return b.createToken(ctx, by, t, auth.PairHash(user, password), pairFields(t, ""))
	})
}

func pairFields(t metadata.Token, from string) any {
	return struct {
		NewToken
		From string `json:"from,omitempty"`
	}{NewToken{Kind: t.Kind, Name: t.Name, Repositories: &t.Repositories, Actions: t.Actions, CIDRs: t.CIDRs, ExpiresAt: t.ExpiresAt}, from}
}

// ImportPair makes a personal token of d.ims.io's form as t says, by its auth.PairHash.
func (b *Batch) ImportPair(ctx context.Context, by auth.Actor, t metadata.Token, hash, from string) (metadata.Token, error) {
	t.Kind = metadata.PersonalToken
	return b.createToken(ctx, by, t, hash, pairFields(t, from))
}

// tokenRotation is what the audit log tells of a new secret.
type tokenRotation struct {
	Overlap int `json:"overlap,omitempty"` // seconds
}

// RotateToken gives a token of a user or a team a new secret; the one before holds for the
// overlap. It returns NOT_FOUND, DENIED, or CONFLICT for too many secrets.
func (p *People) RotateToken(ctx context.Context, by auth.Actor, user, team, name string, overlap time.Duration) (t metadata.Token, secret string, err error) {
	t, err = in(ctx, p, func(b *Batch) (t metadata.Token, err error) {
		before, err := b.tx.Token(ctx, user, team, name)
		if err != nil {
			return t, err
		}
		if err := mayMint(by, before); err != nil {
			return t, err
		}
		var hash string
		secret, hash = auth.NewSecret(prefixes[before.Kind])
		if t, err = b.tx.RotateToken(ctx, user, team, name, hash, overlap); err != nil {
			return t, err
		}
		noun, params := tokenParams(user, team, name)
		return t, b.record(ctx, by, "rotate"+noun, params, tokenRotation{int(overlap / time.Second)})
	})
	return t, secret, err
}

// DeleteToken removes a token of a user or a team. It returns NOT_FOUND.
func (p *People) DeleteToken(ctx context.Context, by auth.Actor, user, team, name string) error {
	return do(ctx, p, func(b *Batch) error { return b.deleteToken(ctx, by, user, team, name) })
}

func (b *Batch) deleteToken(ctx context.Context, by auth.Actor, user, team, name string) error {
	if err := b.tx.DeleteToken(ctx, user, team, name); err != nil {
		return err
	}
	noun, params := tokenParams(user, team, name)
	return b.record(ctx, by, "delete"+noun, params, nil)
}

// DeletePair removes the token that a user name and a password are (d.ims.io's form): one's
// own, and for an administrator anybody's. It returns NOT_FOUND or DENIED.
func (p *People) DeletePair(ctx context.Context, by auth.Actor, user, password string) error {
	return do(ctx, p, func(b *Batch) error {
		t, err := b.TokenByHash(ctx, auth.PairHash(user, password))
		if err != nil {
			return err
		}
		if own := by.Kind == auth.KindUser && t.Kind == metadata.PersonalToken && t.UserID == by.ID; !own && !by.IsAdmin() {
			return oci.Errorf(oci.CodeDenied, "this token is somebody else's: its owner and administrators of this registry may delete it").
				WithDetail(map[string]string{"rule": "admin-only", "principal": by.String(), "ask": "an administrator of this registry"})
		}
		return b.deleteToken(ctx, by, t.User, t.Team, t.Name)
	})
}

// endedSecrets is how long the hash of a token's old secret is kept after its end, so
// that who still uses it is told that there is another one.
const endedSecrets = 30 * 24 * time.Hour

// PruneTokenSecrets forgets secrets of tokens that ended a month ago, some hundreds at a time,
// and gives how many. Several may run at once.
func (p *People) PruneTokenSecrets(ctx context.Context) (n int, err error) {
	err = p.o.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		pruned, err := tx.PruneTokenSecrets(ctx, tx.Now().Add(-endedSecrets), 500)
		n = int(pruned)
		return err
	})
	return n, err
}

// Tokens lists tokens of a user or a team behind a name, in byte order, at most limit. It
// returns NOT_FOUND for the owner.
func (p *People) Tokens(ctx context.Context, user, team, after string, limit int) ([]metadata.Token, error) {
	return snapshot(ctx, p, func(tx *metadata.Tx) (_ []metadata.Token, err error) {
		// Of an owner that is not there, Tokens gives an empty list.
		if team != "" {
			_, err = tx.Team(ctx, team)
		} else {
			_, err = tx.User(ctx, user)
		}
		if err != nil {
			return nil, err
		}
		return tx.Tokens(ctx, user, team, after, limit)
	})
}

// Token gives a token of a user or a team. It returns NOT_FOUND.
func (p *People) Token(ctx context.Context, user, team, name string) (metadata.Token, error) {
	return view(ctx, p, func(tx *metadata.Tx) (metadata.Token, error) { return tx.Token(ctx, user, team, name) })
}

// TokenByHash gives the token whose secret has this hash. It returns NOT_FOUND.
func (b *Batch) TokenByHash(ctx context.Context, hash string) (metadata.Token, error) {
	t, _, err := b.tx.TokenBySecretHash(ctx, hash)
	return t, err
}
