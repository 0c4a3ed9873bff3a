package admin

import (
	"context"
	"strings"

	"berth/api"
	"berth/auth"
	"berth/metadata"
)

func accountOf(a metadata.Account) api.Account {
	shown := api.Account{Account: a.Account, Repositories: a.Repositories, Actions: actionsOf(a.Actions), CreatedAt: a.CreatedAt, CreatedBy: a.CreatedBy}
	if a.Role != "" {
		shown.Role = &a.Role
	}
	return shown
}

// ListAccounts lists the AWS accounts that may sign in, each before its roles.
func (h *Admin) ListAccounts(ctx context.Context, r api.ListAccountsRequestObject) (api.ListAccountsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	account, role, _ := strings.Cut(after, "/")
	accounts, err := h.People.Accounts(ctx, account, role, limit+1)
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
func (h *Admin) PutAccount(ctx context.Context, r api.PutAccountRequestObject) (api.PutAccountResponseObject, error) {
	a, err := h.People.PutAccount(ctx, callOf(ctx).actor, metadata.Account{Account: r.Account, Actions: auth.Pull.Names(), Repositories: orAll(r.Body.Repositories)})
	if err != nil {
		return nil, err
	}
	return api.PutAccount200JSONResponse(accountOf(a)), nil
}

// PutAccountRole lets IAM roles of an AWS account in.
func (h *Admin) PutAccountRole(ctx context.Context, r api.PutAccountRoleRequestObject) (api.PutAccountRoleResponseObject, error) {
	a, err := h.People.PutAccount(ctx, callOf(ctx).actor, metadata.Account{
		Account: r.Account, Role: r.Role, Repositories: orAll(r.Body.Repositories), Actions: each(r.Body.Actions, func(a api.Action) string { return string(a) }),
	})
	if err != nil {
		return nil, err
	}
	return api.PutAccountRole200JSONResponse(accountOf(a)), nil
}

// orAll is the pattern that was given, or that of all repositories.
func orAll(pattern *string) string {
	if pattern == nil {
		return "*"
	}
	return *pattern
}

// DeleteAccount shuts an AWS account out; entries of its roles stay.
func (h *Admin) DeleteAccount(ctx context.Context, r api.DeleteAccountRequestObject) (api.DeleteAccountResponseObject, error) {
	if err := h.People.DeleteAccount(ctx, callOf(ctx).actor, r.Account, ""); err != nil {
		return nil, err
	}
	return api.DeleteAccount204Response{}, nil
}

// DeleteAccountRole takes away what roles of an AWS account may.
func (h *Admin) DeleteAccountRole(ctx context.Context, r api.DeleteAccountRoleRequestObject) (api.DeleteAccountRoleResponseObject, error) {
	if err := h.People.DeleteAccount(ctx, callOf(ctx).actor, r.Account, r.Role); err != nil {
		return nil, err
	}
	return api.DeleteAccountRole204Response{}, nil
}
