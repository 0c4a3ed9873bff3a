package oidc

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"berth/auth"
	"berth/oci"
)

// AuthURL is where a browser goes to sign in: the provider's authorization
// endpoint, for the code flow with PKCE (RFC 7636, S256). redirect is our address that it
// comes back to; state, nonce and verifier are random, and are wanted back by
// the caller and by [Authenticator.Exchange]. The error is UNAVAILABLE when the provider
// cannot be asked now.
func (a *Authenticator) AuthURL(ctx context.Context, redirect, state, nonce, verifier string) (string, error) {
	config, _, err := a.web(ctx, redirect)
	if err != nil {
		return "", err
	}
	return config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), nil
}

// Exchange gives who comes back from the provider with a code. The error is
// auth.ErrWrong, or UNAVAILABLE when the provider cannot be asked now.
func (a *Authenticator) Exchange(ctx context.Context, redirect, code, nonce, verifier string) (auth.Principal, error) {
	config, i, err := a.web(ctx, redirect)
	if err != nil {
		return auth.Principal{}, err
	}
	tokens, err := config.Exchange(oidc.ClientContext(ctx, i.client), code, oauth2.VerifierOption(verifier))
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.ErrorCode == "invalid_grant":
		return auth.Principal{}, auth.Wrongf("the code of the sign-in was used before or has expired, sign in again")
	case err != nil:
		return auth.Principal{}, oci.Errorf(oci.CodeUnavailable, "the identity provider %s does not complete the sign-in now, try again later", i.url).WithCause(shortened(err))
	}
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" || len(raw) > MaxToken {
		return auth.Principal{}, oci.Errorf(oci.CodeUnavailable, "the identity provider %s gave no ID token: the scope openid has to be asked for", i.url)
	}
	t, err := i.verify(ctx, raw)
	if err != nil {
		return auth.Principal{}, err
	}
	if subtle.ConstantTimeCompare([]byte(t.nonce), []byte(nonce)) != 1 || !a.options.People.addressed(t) {
		return auth.Principal{}, auth.Wrongf("the ID token belongs to another sign-in, sign in again")
	}
	return a.person(ctx, t)
}

// web is the OAuth2 client that the server is for browsers.
func (a *Authenticator) web(ctx context.Context, redirect string) (*oauth2.Config, *issuer, error) {
	p := a.options.People
	if p == nil {
		return nil, nil, errNoPeople
	}
	i := a.issuer(p.Issuer, true)
	f, err := i.facts(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("signing in with a browser: %w", err)
	}
	return &oauth2.Config{
		ClientID: p.ClientID, ClientSecret: p.ClientSecret,
		Endpoint: f.provider.Endpoint(), RedirectURL: redirect, Scopes: p.webScopes(),
	}, i, nil
}
