package people

import (
	"context"
	"slices"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// accountParams name an account or roles of it, and the operation's noun.
func accountParams(account, role string) (noun string, params Params) {
	if role == "" {
		return "Account", Params{"account": account}
	}
	return "AccountRole", Params{"account": account, "role": role}
}

// PutAccount lets an AWS account in, or roles of it, or changes what they may do. Without
// a role it is everybody in the account, who may pull. It returns INVALID or DENIED.
func (p *People) PutAccount(ctx context.Context, by auth.Actor, a metadata.Account) (metadata.Account, error) {
	return in(ctx, p, func(b *Batch) (metadata.Account, error) { return b.putAccount(ctx, by, a) })
}

func (b *Batch) putAccount(ctx context.Context, by auth.Actor, a metadata.Account) (metadata.Account, error) {
	if err := parsePatterns(a.Repositories, ""); err != nil {
		return a, err
	}
	actions, err := auth.ParseActions(a.Actions)
	switch {
	case err != nil:
		return a, err
	case actions.Has(auth.Admin):
		return a, oci.Errorf(oci.CodeInvalid, "the action admin is for people, machines do not have it: use pull, push or delete")
	}
	if err := by.MayGive(auth.Right{What: "an AWS account's rights", Limit: auth.Limit{Repositories: a.Repositories, Actions: actions}}); err != nil {
		return a, err
	}
	a.Actions, a.CreatedBy = actions.Names(), by.Audit.Name
	stored, err := b.tx.PutAccount(ctx, a)
	if err != nil {
		return stored, err
	}
	noun, params := accountParams(a.Account, a.Role)
	return stored, b.record(ctx, by, "put"+noun, params, struct {
		Repositories string   `json:"repositories"`
		Actions      []string `json:"actions"`
	}{a.Repositories, a.Actions})
}

// AddAccount is PutAccount for an account that is not there; one that is stays as it is.
func (p *People) AddAccount(ctx context.Context, by auth.Actor, a metadata.Account) error {
	return do(ctx, p, func(b *Batch) error {
		rows, err := b.tx.AccountRoles(ctx, a.Account)
		if err != nil || slices.ContainsFunc(rows, func(r metadata.Account) bool { return r.Role == a.Role }) {
			return err
		}
		_, err = b.putAccount(ctx, by, a)
		return err
	})
}

// DeleteAccount shuts out an AWS account, or with a role those roles of it; entries of
// other roles stay. It returns NOT_FOUND.
func (p *People) DeleteAccount(ctx context.Context, by auth.Actor, account, role string) error {
	return do(ctx, p, func(b *Batch) error {
		if err := b.tx.DeleteAccount(ctx, account, role); err != nil {
			return err
		}
		noun, params := accountParams(account, role)
		return b.record(ctx, by, "delete"+noun, params, nil)
	})
}

// Accounts lists entries of AWS accounts behind one, by account and role, at most limit.
func (p *People) Accounts(ctx context.Context, account, role string, limit int) ([]metadata.Account, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.Account, error) { return tx.Accounts(ctx, account, role, limit) })
}
