package server

import (
	"context"
	"errors"
	"net/http"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/oci"
)

// Tokens for other services: registries that send their clients here. What a
// token for one of them carries never depends on our own repositories.

// otherService finds whom a token is asked for; nil is this registry itself. The
// error is an INVALID for a service that nobody has configured.
func (s *Server) otherService(ctx context.Context, names []string) (*metadata.Service, error) {
	name := ""
	for _, n := range names {
		if n != "" && name != "" && n != name {
			return nil, oci.Errorf(oci.CodeInvalid, "a token is for one service, two were named: %.80q and %.80q", name, n)
		}
		if n != "" {
			name = n
		}
	}
	if name == "" || name == s.service {
		return nil, nil
	}
	unknown := oci.Errorf(oci.CodeInvalid, "there is no service %.80q here: this registry is the service %q. An administrator adds others with 'berth service set'", name, s.service)
	if s.services == nil {
		return nil, unknown
	}
	found, err := s.services(ctx, name)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return nil, unknown
	case err != nil:
		return nil, failClosed(err)
	}
	return &found, nil
}

// checkAccount refuses a parameter account that is neither who signed in nor the user name
// that was shown. It decides nothing, but nobody shall take the token for somebody else's.
func (s *Server) checkAccount(ex *exchange, accounts []string, shown string) error {
	p := ex.identity.principal
	for _, account := range accounts {
		switch {
		case account == "" || !p.IsAnonymous() && (account == shown || account == p.Name || account == p.String()):
		case p.IsAnonymous():
			return s.refuseToken(ex, &errBadCredentials{rule: "not-signed-in", reason: "the parameter account names somebody, but nobody has signed in"})
		default:
			return oci.Errorf(oci.CodeInvalid, "the parameter account is %.80q, but %s has signed in: leave it out, or sign in as that user", account, p)
		}
	}
	return nil
}

// grantOther answers with a token for another service, for what was asked and is allowed.
func (s *Server) grantOther(ex *exchange, r *http.Request, other *metadata.Service, scopes, accounts []string, shown string, refresh bool) error {
	ex.identity.principal.RemoteAddr = ex.remote
	p := ex.identity.principal
	if p.IsAnonymous() && other.AnonymousPull == "" {
		return s.refuseToken(ex, &errBadCredentials{rule: "not-signed-in", reason: "the service " + other.Name + " needs a sign-in: give a user name and a password or token"})
	}
	if err := s.checkAccount(ex, accounts, shown); err != nil {
		return err
	}
	asked, err := parseScopes(scopes)
	if err != nil {
		return err
	}
	decisions, err := s.policy.ActionsForService(r.Context(), p, *other, append(repositoriesOf(asked), everyRepository), actionsOf(asked))
	if err != nil {
		return failClosed(err)
	}
	access := make([]token.Access, 0, len(asked))
	for _, sc := range asked {
		// The other registry takes the token as the last word.
		d := decisions[sc.name]
		if sc.kind == "repository" && d.Unsure != nil && !errors.Is(d.Unsure, auth.ErrShowCredential) {
			return failClosed(d.Unsure)
		}
		if granted := sc.grantedAt(decisions); len(granted) > 0 {
			access = append(access, token.Access{Type: sc.kind, Class: sc.class, Name: sc.name, Actions: granted})
		}
	}
	now := s.clock()
	raw, expires, err := s.tokens.IssueFor(r.Context(), *other, p, access)
	if err != nil {
		return err
	}
	refresh = refresh && other.RefreshTokens && !p.IsAnonymous()
	return s.answerToken(ex, r, issued{raw, other.Name, access, now, expires}, refresh)
}

// everyRepository is not the name of a repository. A right on it is one on all of them: it
// matches the pattern "*", and those of parts of the names do not match it.
const everyRepository = "*"

// grantedAt is what of a scope is allowed at another service, in a fixed order.
// Such a token says nothing about administration, which is ours alone.
func (sc scope) grantedAt(decisions map[string]auth.Decision) []string {
	asked, all := sc.asked()
	const every = auth.Pull | auth.Push | auth.Delete
	switch {
	case sc.kind == "repository":
		allowed := decisions[sc.name].Actions & every
		if !all {
			return (asked & allowed).Names()
		}
		granted := allowed.Names()
		if allowed.Has(every) {
			granted = append(granted, "*") // what older registries ask for a deletion
		}
		return granted
	// The other registry lists all that it has, whoever may pull what.
	case sc.kind == "registry" && sc.name == "catalog" && all && decisions[everyRepository].Actions.Has(auth.Pull):
		return []string{"*"}
	}
	return nil
}

// keysFor finds the service that the parameter of a request names; nil is all.
func (s *Server) keysFor(r *http.Request) (*metadata.Service, error) {
	name := r.URL.Query().Get("service")
	if name == "" {
		return nil, nil
	}
	if name == s.service {
		return &metadata.Service{}, nil
	}
	return s.otherService(r.Context(), []string{name})
}

// getJWKS gives the public keys with which others check our tokens.
func (s *Server) getJWKS(ex *exchange, r *http.Request) error {
	service, err := s.keysFor(r)
	if err != nil {
		return err
	}
	set, err := s.tokens.Keys().JWKS(r.Context(), service)
	if err != nil {
		return err
	}
	ex.Header().Set("Cache-Control", "public, max-age=60")
	writeJSON(ex, "application/jwk-set+json", http.StatusOK, set)
	return nil
}

// getCertificates gives the certificates of the same keys, as CNCF distribution
// takes them for rootcertbundle.
func (s *Server) getCertificates(ex *exchange, r *http.Request) error {
	service, err := s.keysFor(r)
	if err != nil {
		return err
	}
	bundle, err := s.tokens.Keys().Bundle(r.Context(), service)
	if err != nil {
		return err
	}
	h := ex.Header()
	h.Set("Content-Type", "application/x-pem-file")
	h.Set("Cache-Control", "public, max-age=60")
	ex.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = ex.Write(bundle)
	}
	return nil
}
