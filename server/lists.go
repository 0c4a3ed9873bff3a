package server

import (
	"net/http"

	"berth/metadata"
)

func (s *Server) listTags(ex *exchange, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	p, err := parsePage(q)
	if err != nil {
		return err
	}
	// One more than the page tells whether there is a next one. With n=0 it tells
	// whether there is a repository.
	tags, err := s.registry.TagNames(r.Context(), ex.repository, p.last, p.n+1)
	if err != nil {
		return err
	}
	if len(tags) > p.n {
		if tags = tags[:p.n]; p.n > 0 {
			setNext(ex, r, p, tags[p.n-1])
		}
	}
	writeJSON(ex, "application/json", http.StatusOK, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{ex.repository, orEmpty(tags)})
	return nil
}

// listCatalog lists the repositories that the caller may pull from. Clients that
// have no credentials for us get an anonymous token without a word, so the list
// says that it is the public part; when that is empty it is a challenge, since an
// empty list would read as an empty registry.
func (s *Server) listCatalog(ex *exchange, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	p, err := parsePage(q)
	if err != nil {
		return err
	}
	var names []string
	if p.n > 0 {
		viewer, err := s.policy.Viewer(r.Context(), ex.identity.principal)
		if err != nil {
			return failClosed(err)
		}
		names, err = s.registry.RepositoryNames(r.Context(), metadata.RepositoryFilter{
			Viewer: viewer,
			After:  p.last,
			Limit:  p.n + 1,
		})
		if err != nil {
			return err
		}
	}
	if ex.identity.principal.IsAnonymous() {
		if len(names) == 0 && p.n > 0 && p.last == "" {
			return s.challenge(ex, r, insufficient(ex.identity), "you are not signed in, and no repository here is public: sign in to list those that you may pull from",
				refusal{Rule: "not-signed-in", Ask: "an administrator of this registry, for an account or a token"})
		}
		ex.Header().Set("Warning", `299 - "You are not signed in: only public repositories are listed. Sign in to list all that you may pull from."`)
	}
	if len(names) > p.n {
		names = names[:p.n]
		setNext(ex, r, p, names[p.n-1])
	}
	writeJSON(ex, "application/json", http.StatusOK, struct {
		Repositories []string `json:"repositories"`
	}{orEmpty(names)})
	return nil
}

// orEmpty keeps null out of the JSON: clients range over a list.
func orEmpty(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

func (s *Server) getBase(ex *exchange, r *http.Request) error {
	writeJSON(ex, "application/json", http.StatusOK, struct{}{})
	return nil
}
