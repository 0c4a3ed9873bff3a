package admin

import (
	"context"
	"strings"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

func accountOf(a metadata.Account) api.Account {
	shown := api.Account{Account: a.Account, Repositories: a.Repositories, Actions: actionsOf(a.Actions), CreatedAt: a.CreatedAt, CreatedBy: a.CreatedBy}
	if a.Role != "" {
		shown.Role = &a.Role
	}
	return shown
}

// ListAccounts lists the AWS accounts that may sign in, each before its roles.
func (h *handler) ListAccounts(ctx context.Context, r api.ListAccountsRequestObject) (api.ListAccountsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	account, role, _ := strings.Cut(after, "/")
	var accounts []metadata.Account
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		accounts, err = tx.Accounts(ctx, account, role, limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	accounts, next, link := page(ctx, accounts, limit, func(a metadata.Account) string { return a.Account + "/" + a.Role })
	return api.ListAccounts200JSONResponse{
		Body:    api.AccountList{Items: each(accounts, accountOf), Next: next},
		Headers: api.ListAccounts200ResponseHeaders{Link: link},
	}, nil
}

// PutAccount lets everybody in an AWS account pull.
func (h *handler) PutAccount(ctx context.Context, r api.PutAccountRequestObject) (api.PutAccountResponseObject, error) {
	a, err := h.putAccount(ctx, r.Body, metadata.Account{Account: r.Account, Actions: auth.Pull.Names()}, r.Body.Repositories)
	if err != nil {
		return nil, err
	}
	return api.PutAccount200JSONResponse(accountOf(a)), nil
}

// PutAccountRole lets IAM roles of an AWS account in.
func (h *handler) PutAccountRole(ctx context.Context, r api.PutAccountRoleRequestObject) (api.PutAccountRoleResponseObject, error) {
	actions, err := auth.ParseActions(each(r.Body.Actions, func(a api.Action) string { return string(a) }))
	if err != nil {
		return nil, err
	}
	if actions.Has(auth.Admin) {
		return nil, oci.Errorf(oci.CodeInvalid, "the action admin is for people, machines do not have it: use pull, push or delete")
	}
	a, err := h.putAccount(ctx, r.Body, metadata.Account{Account: r.Account, Role: r.Role, Actions: actions.Names()}, r.Body.Repositories)
	if err != nil {
		return nil, err
	}
	return api.PutAccountRole200JSONResponse(accountOf(a)), nil
}

func (h *handler) putAccount(ctx context.Context, body any, a metadata.Account, repositories *string) (stored metadata.Account, err error) {
	a.CreatedBy, a.Repositories = callOf(ctx).principal.String(), "*"
	if repositories != nil {
		a.Repositories = *repositories
	}
	if !repositoriesRE.MatchString(a.Repositories) {
		return a, oci.Errorf(oci.CodeInvalid, "the pattern %.140q cannot match a repository: use the characters of their names, '*' and '?'", a.Repositories)
	}
	actions, err := auth.ParseActions(a.Actions)
	if err != nil {
		return a, err
	}
	if err := mayGive(ctx, auth.Right{What: "an AWS account's rights", Limit: auth.Limit{Repositories: a.Repositories, Actions: actions}}); err != nil {
		return a, err
	}
	err = h.change(ctx, body, func(tx *metadata.Tx) (err error) {
		stored, err = tx.PutAccount(ctx, a)
		return err
	})
	return stored, err
}

// DeleteAccount shuts an AWS account out; entries of its roles stay.
func (h *handler) DeleteAccount(ctx context.Context, r api.DeleteAccountRequestObject) (api.DeleteAccountResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.DeleteAccount(ctx, r.Account, "") })
	if err != nil {
		return nil, err
	}
	return api.DeleteAccount204Response{}, nil
}

// DeleteAccountRole takes away what roles of an AWS account may.
func (h *handler) DeleteAccountRole(ctx context.Context, r api.DeleteAccountRoleRequestObject) (api.DeleteAccountRoleResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.DeleteAccount(ctx, r.Account, r.Role) })
	if err != nil {
		return nil, err
	}
	return api.DeleteAccountRole204Response{}, nil
}
