package oidc_test

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"berth/auth"
	"berth/auth/oidc"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

const audience = "registry.example.com"

// github are the claims of a job of GitHub Actions.
func github(c jwt.MapClaims) {
	delete(c, "preferred_username")
	delete(c, "groups")
	maps.Copy(c, jwt.MapClaims{
		"aud": audience, "sub": "repo:acme/app:ref:refs/heads/main", "repository": "acme/app", "repository_id": 4711, "ref": "refs/heads/main",
		"sha": "c0ffee", "run_id": "99", "actor": "octocat", "repository_visibility": "private", "runner": map[string]any{"hosted": true},
		"kubernetes.io": map[string]any{"namespace": "ci", "serviceaccount": map[string]any{"name": "builder"}},
		"roles":         []string{"reader", "builder"},
	})
}

type trust struct {
	*testing.T
	db *metadata.DB
	h  *hostile
}

func newTrust(t *testing.T, db *metadata.DB) trust {
	tr := trust{t, db, newHostile(t)}
	tr.update(func(ctx context.Context, tx *metadata.Tx) error {
		for _, team := range []string{"core", "web"} {
			if _, err := tx.CreateTeam(ctx, team, ""); err != nil {
				return err
			}
		}
		return nil
	})
	return tr
}

func (t trust) update(f func(ctx context.Context, tx *metadata.Tx) error) {
	t.Helper()
	if err := t.db.Update(t.Context(), func(tx *metadata.Tx) error { return f(t.Context(), tx) }); err != nil {
		t.Fatal(err)
	}
}

// policy stores one that is checked as those of the API are.
func (t trust) policy(team, name string, claims map[string]string, change func(p *metadata.TrustPolicy)) metadata.TrustPolicy {
	t.Helper()
	p := metadata.TrustPolicy{
		Team: team, Name: name, Issuer: t.h.URL, Audience: audience, Claims: claims, Robot: "ci",
		Repositories: team + "/*", Actions: []string{"pull", "push"}, Tags: "v*", MaxLife: 10 * time.Minute, CreatedBy: "admin",
	}
	if change != nil {
		change(&p)
	}
	if err := auth.CheckTrustPolicy(p); err != nil {
		t.Fatal(err)
	}
	t.update(func(ctx context.Context, tx *metadata.Tx) (err error) {
		p, _, err = tx.PutTrustPolicy(ctx, p)
		return err
	})
	return p
}

// TestJobs: a job's token acts as the robot of the policy that matches, for a
// time, and its claims are kept.
func TestJobs(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		tr := newTrust(t, db)
		a := open(t, db, oidc.Options{TrustedIssuers: []string{tr.h.URL}})
		ctx := t.Context()
		raw := tr.h.token(github)
		if p, err := a.Authenticate(ctx, bearer(raw)); !errors.Is(err, auth.ErrWrong) {
			t.Fatalf("without a policy: %+v, %v", p, err)
		}
		conditions := map[string]string{
			"repository": "acme/*", "ref": "refs/heads/main", "repository_id": "4711", "runner.hosted": "true",
			"kubernetes.io.namespace": "ci", "kubernetes.io.serviceaccount.name": "build??", "roles": "builder",
		}
		policy := tr.policy("core", "main", conditions, nil)
		for _, c := range []auth.Credentials{bearer(raw), {Username: "any name", Password: raw}, {Username: "core+ci", Password: raw}, {Password: raw}} {
			p, err := a.Authenticate(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind != auth.KindRobot || p.String() != "core+ci" || p.TrustID != policy.ID || p.TeamID != policy.TeamID || p.TokenID != 0 || p.ID != 0 ||
				!reflect.DeepEqual(p.Limit, &auth.Limit{Repositories: "core/*", Actions: auth.Pull | auth.Push, Tags: "v*"}) {
				t.Errorf("%+v", p)
			}
			if left := time.Until(p.Expires); left > 10*time.Minute || left < 9*time.Minute {
				t.Errorf("it ends in %s", left)
			}
			for name, want := range map[string]string{
				"repository": "acme/app", "ref": "refs/heads/main", "repository_id": "4711", "runner.hosted": "true", "roles": "builder",
				"kubernetes.io.namespace": "ci", "iss": tr.h.URL, "sub": "repo:acme/app:ref:refs/heads/main", "jti": "j1", "aud": audience, "sha": "c0ffee", "run_id": "99",
			} {
				if p.Claims[name] != want {
					t.Errorf("the claim %s is kept as %q, want %q", name, p.Claims[name], want)
				}
			}
			if len(p.Claims) > auth.MaxClaims {
				t.Errorf("%d claims are kept", len(p.Claims))
			}
		}
		// The policy's bound counts when it is shorter than the token's life, and the
		// other way round.
		tr.policy("core", "main", conditions, func(p *metadata.TrustPolicy) { p.MaxLife = 2 * time.Minute })
		for life, most := range map[time.Duration]time.Duration{10 * time.Minute: 2 * time.Minute, 30 * time.Second: 30 * time.Second} {
			p, err := a.Authenticate(ctx, bearer(tr.h.token(func(c jwt.MapClaims) { github(c); c["exp"] = time.Now().Add(life).Unix() })))
			if left := time.Until(p.Expires); err != nil || left > most {
				t.Errorf("a token of %s ends in %s, %v", life, left, err)
			}
		}
		tr.policy("core", "main", conditions, nil)
		for name, change := range map[string]func(c jwt.MapClaims){
			"another repository":          func(c jwt.MapClaims) { c["repository"] = "evil/app" },
			"another branch":              func(c jwt.MapClaims) { c["ref"] = "refs/heads/main2" },
			"no branch":                   func(c jwt.MapClaims) { delete(c, "ref") },
			"an object for a text":        func(c jwt.MapClaims) { c["ref"] = map[string]any{"refs/heads/main": true} },
			"a nested claim flattened":    func(c jwt.MapClaims) { delete(c, "runner"); c["runner"] = "hosted" },
			"a number that is near":       func(c jwt.MapClaims) { c["repository_id"] = 4711.5 },
			"a list without the role":     func(c jwt.MapClaims) { c["roles"] = []string{"reader"} },
			"the audience of another":     func(c jwt.MapClaims) { c["aud"] = "other.example.com" },
			"no audience":                 func(c jwt.MapClaims) { delete(c, "aud") },
			"too many audiences":          func(c jwt.MapClaims) { c["aud"] = strings.Split("a,b,c,d,e,f,g,h,"+audience, ",") },
			"expired":                     func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Second).Unix() },
			"case counts":                 func(c jwt.MapClaims) { c["repository"] = "Acme/app" },
			"a claim with another's name": func(c jwt.MapClaims) { delete(c, "ref"); c["REF"] = "refs/heads/main" },
		} {
			p, err := a.Authenticate(ctx, bearer(tr.h.token(func(c jwt.MapClaims) { github(c); change(c) })))
			if !errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		}
		// The token's own end comes first when it is nearer.
		soon := time.Now().Add(time.Minute).Truncate(time.Second)
		if p, err := a.Authenticate(ctx, bearer(tr.h.token(func(c jwt.MapClaims) { github(c); c["exp"] = soon.Unix() }))); err != nil || !p.Expires.Equal(soon) {
			t.Errorf("%s, %v, want %s", p.Expires, err, soon)
		}

		// What Berth re-checks where rights change hands.
		refresher := auth.NewRefresher(db, nil)
		p, err := a.Authenticate(ctx, bearer(raw))
		if err != nil {
			t.Fatal(err)
		}
		if now, err := refresher.Current(ctx, p); err != nil || !reflect.DeepEqual(now, p) {
			t.Errorf("%+v, %v, want %+v", now, err, p)
		}
		if _, err := refresher.Proof(ctx, p); err == nil {
			t.Error("a refresh token for a job")
		}
		tr.policy("core", "main", conditions, func(p *metadata.TrustPolicy) { p.Actions = []string{"pull"} })
		if now, err := refresher.Current(ctx, p); err != nil || now.Limit.Actions != auth.Pull {
			t.Errorf("with fewer rights: %+v, %v", now, err)
		}
		tr.policy("core", "main", map[string]string{"repository": "acme/other"}, nil)
		if now, err := refresher.Current(ctx, p); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("with other conditions: %+v, %v", now, err)
		}
		tr.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteTrustPolicy(ctx, "core", "main") })
		if now, err := refresher.Current(ctx, p); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("without the policy: %+v, %v", now, err)
		}
		tr.policy("web", "main", conditions, nil)
		if now, err := refresher.Current(ctx, p); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("with the policy of another team: %+v, %v", now, err)
		}
		tr.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteTrustPolicy(ctx, "web", "main") })
		elsewhere := tr.policy("core", "main", conditions, func(p *metadata.TrustPolicy) { p.Issuer = "https://elsewhere.example.com" })
		p.TrustID = elsewhere.ID
		if now, err := refresher.Current(ctx, p); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("with the policy for another issuer: %+v, %v", now, err)
		}
		tr.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteTrustPolicy(ctx, "core", "main") })
		if p, err := a.Authenticate(ctx, bearer(raw)); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("without the policy: %+v, %v", p, err)
		}
	})
}

// TestWhichPolicy: the policy of the team that is asked about decides, or the one that the
// user name asks for, and of one team the oldest. What another team adds takes nothing
// away, and makes no job into its own.
func TestWhichPolicy(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		tr := newTrust(t, db)
		a := open(t, db, oidc.Options{TrustedIssuers: []string{tr.h.URL}})
		is := func(username string, teams ...string) string {
			t.Helper()
			p, err := a.Authenticate(t.Context(), auth.Credentials{Username: username, Password: tr.h.token(github), Teams: teams})
			switch {
			case errors.Is(err, auth.ErrWrong):
				for _, want := range []string{"core+ci", "web+ci", "the team core", "the team web"} {
					if !strings.Contains(auth.WrongReason(err), want) {
						t.Errorf("%s is not in %q", want, auth.WrongReason(err))
					}
				}
				return "refused"
			case err != nil:
				t.Fatal(err)
			}
			return p.String()
		}
		here := map[string]string{"repository": "acme/app"}
		tr.policy("web", "elsewhere", map[string]string{"repository": "acme/web"}, nil)
		tr.policy("web", "a", here, nil) // the first that matches, before core's own
		tr.policy("core", "b", here, nil)
		tr.policy("core", "release", here, func(p *metadata.TrustPolicy) { p.Robot = "release" })
		tr.policy("core", "b", map[string]string{"repository": "acme/*"}, nil) // a change keeps its place
		for username, want := range map[string]string{
			"core+ci": "core+ci", "web+ci": "web+ci", "core+release": "core+release",
			"": "refused", "x": "refused", "web+release": "refused", // nobody's
		} {
			if got := is(username); got != want {
				t.Errorf("as %q the job is %s, want %s", username, got, want)
			}
		}
		for _, tt := range []struct{ username, teams, want string }{
			{"", "core", "core+ci"}, {"oidc", "core", "core+ci"}, {"oidc", "web", "web+ci"}, {"core+release", "web", "core+release"},
			{"oidc", "third", "refused"}, {"oidc", "core web", "refused"}, {"oidc", "core third", "core+ci"}, {"web+release", "core", "core+ci"},
		} {
			if got := is(tt.username, strings.Fields(tt.teams)...); got != tt.want {
				t.Errorf("as %q for %q the job is %s, want %s", tt.username, tt.teams, got, tt.want)
			}
		}
		// An administrator says whose they are: then no other team's policy counts.
		owners := func(list ...metadata.TrustOwner) {
			tr.update(func(ctx context.Context, tx *metadata.Tx) error {
				if _, err := tx.PutTrustIssuer(ctx, tr.h.URL, "admin"); err != nil {
					return err
				}
				_, err := tx.SetTrustOwners(ctx, tr.h.URL, list)
				return err
			})
		}
		owners(metadata.TrustOwner{Claim: "repository", Pattern: "acme/*", Team: "core"}, metadata.TrustOwner{Claim: "repository", Pattern: "shop/*", Team: "web"})
		for username, want := range map[string]string{"": "core+ci", "oidc": "core+ci", "web+ci": "core+ci", "core+release": "core+release"} {
			if got := is(username, "web"); got != want {
				t.Errorf("as %q the job of core is %s, want %s", username, got, want)
			}
		}
		owners(metadata.TrustOwner{Claim: "repository", Pattern: "shop/*", Team: "web"}) // acme is nobody's
		if got := is("oidc"); got != "refused" {
			t.Errorf("a job of nobody in particular is %s", got)
		}
		owners()
		// More than one page of policies.
		for i := range 250 {
			tr.policy("web", "many-"+strings.Repeat("x", i%50)+string(rune('a'+i/50)), map[string]string{"repository": "nobody/app"}, nil)
		}
		tr.policy("web", "last", here, func(p *metadata.TrustPolicy) { p.Robot = "last" })
		if got := is("web+last"); got != "web+last" {
			t.Errorf("behind 250 others: %s", got)
		}
	})
}

// TestIssuersOfJobs: only issuers that an admin let in are asked, and one that
// is not in the settings only at an address of the public Internet (peers.md
// D.3, outbound).
func TestIssuersOfJobs(t *testing.T) {
	db := sqlite(t)
	tr := newTrust(t, db)
	tr.policy("core", "main", map[string]string{"repository": "acme/app"}, nil)
	a := open(t, db, oidc.Options{})
	raw := tr.h.token(github)
	if p, err := a.Authenticate(t.Context(), bearer(raw)); !errors.Is(err, auth.ErrNotMine) {
		t.Errorf("an issuer that nobody let in: %+v, %v", p, err)
	}
	tr.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.PutTrustIssuer(ctx, tr.h.URL, "admin")
		return err
	})
	p, err := a.Authenticate(t.Context(), bearer(raw))
	if !errors.Is(err, oci.ErrUnavailable) || tr.h.hits.Load() != 0 {
		t.Errorf("an issuer at a loopback address: %+v, %v, %d requests", p, err, tr.h.hits.Load())
	}
	if p, err := open(t, db, oidc.Options{TrustedIssuers: []string{tr.h.URL}}).Authenticate(t.Context(), bearer(raw)); err != nil || p.String() != "core+ci" {
		t.Errorf("the same, vouched for by the operator: %+v, %v", p, err)
	}
	// When the database cannot tell, nobody is let in or told to be wrong.
	other := open(t, db, oidc.Options{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err := other.Authenticate(t.Context(), bearer(raw)); err == nil || errors.Is(err, auth.ErrNotMine) || errors.Is(err, auth.ErrWrong) {
		t.Errorf("without a database: %+v, %v", p, err)
	}
}

// TestOneIssuerForBoth: a provider of people may also give tokens to jobs; the
// audience tells them apart.
func TestOneIssuerForBoth(t *testing.T) {
	db := sqlite(t)
	tr := newTrust(t, db)
	tr.policy("core", "main", map[string]string{"repository": "acme/app"}, nil)
	a := open(t, db, oidc.Options{People: tr.h.people(), TrustedIssuers: []string{tr.h.URL}})
	if p, err := a.Authenticate(t.Context(), bearer(tr.h.token(github))); err != nil || p.String() != "core+ci" {
		t.Errorf("a job: %+v, %v", p, err)
	}
	if p, err := a.Authenticate(t.Context(), bearer(tr.h.token(nil))); err != nil || p.String() != "alice" {
		t.Errorf("a person: %+v, %v", p, err)
	}
	if p, err := a.Authenticate(t.Context(), bearer(tr.h.token(func(c jwt.MapClaims) { c["aud"] = "x" }))); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("nobody: %+v, %v", p, err)
	}
}

// TestCheckTrustPolicy: what would let in everybody is refused.
func TestCheckTrustPolicy(t *testing.T) {
	good := metadata.TrustPolicy{Issuer: auth.GitHubIssuer, Audience: audience, Claims: map[string]string{"repository": "acme/app"}, MaxLife: 15 * time.Minute}
	for name, claims := range map[string]map[string]string{
		"a repository":     {"repository": "acme/app"},
		"an owner's all":   {"repository": "acme/*", "ref": "refs/heads/main"},
		"an owner":         {"repository_owner": "acme"},
		"a subject":        {"sub": "repo:acme/app:*"},
		"an owner by id":   {"repository_owner_id": "4711"},
		"more beside it":   {"repository_owner": "acme", "environment": "*"},
		"a subject, whole": {"sub": "repo:acme/app:ref:refs/heads/main"},
	} {
		p := good
		p.Claims = claims
		if err := auth.CheckTrustPolicy(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := map[string]string{}
	for _, r := range "abcdefghijklmnopqrstuvwxyz" {
		many[string(r)] = "x"
	}
	for name, change := range map[string]func(p *metadata.TrustPolicy){
		"no condition":              func(p *metadata.TrustPolicy) { p.Claims = nil },
		"everything":                func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository": "*"} },
		"everything, another way":   func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository": "?*", "sub": "*?"} },
		"every main branch":         func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"ref": "refs/heads/main"} },
		"every owner":               func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository": "*/app"} },
		"owners of a prefix":        func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository": "acme*/app"} },
		"owners of another prefix":  func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository_owner": "acme*"} },
		"every subject":             func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"sub": "repo:*"} },
		"every subject, slash":      func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"sub": "repo:/*"} },
		"nobody's repository":       func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository": "/*"} },
		"too many conditions":       func(p *metadata.TrustPolicy) { p.Claims = many },
		"an empty condition":        func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository": "acme/app", "ref": ""} },
		"a long condition":          func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"repository": strings.Repeat("x", 513)} },
		"an odd claim":              func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"re pository": "acme/app"} },
		"the audience as condition": func(p *metadata.TrustPolicy) { p.Claims = map[string]string{"aud": "x"} },
		"no audience":               func(p *metadata.TrustPolicy) { p.Audience = "" },
		"an issuer by http":         func(p *metadata.TrustPolicy) { p.Issuer = "http://gitlab.example.com" },
		"an issuer with a query":    func(p *metadata.TrustPolicy) { p.Issuer = "https://gitlab.example.com/?" },
		"an issuer with a user":     func(p *metadata.TrustPolicy) { p.Issuer = "https://a@gitlab.example.com" },
		"no issuer":                 func(p *metadata.TrustPolicy) { p.Issuer = "" },
		"a long life":               func(p *metadata.TrustPolicy) { p.MaxLife = time.Hour },
		"no life":                   func(p *metadata.TrustPolicy) { p.MaxLife = 0 },
		"every project of GitLab": func(p *metadata.TrustPolicy) {
			p.Issuer = auth.GitLabIssuer
			p.Claims = map[string]string{"ref": "main"}
		},
		"every pipeline": func(p *metadata.TrustPolicy) {
			p.Issuer = auth.BuildkiteIssuer
			p.Claims = map[string]string{"pipeline_slug": "deploy"}
		},
	} {
		p := good
		change(&p)
		if err := auth.CheckTrustPolicy(p); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTrustStorage: names, places and deletion of policies and issuers.
func TestTrustStorage(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		tr := newTrust(t, db)
		ctx := t.Context()
		first := tr.policy("core", "main", map[string]string{"a": "1"}, nil)
		again := tr.policy("core", "main", map[string]string{"a": "2"}, func(p *metadata.TrustPolicy) { p.CreatedBy = "bob" })
		if again.ID != first.ID || again.CreatedBy != "admin" || again.Claims["a"] != "2" || !again.CreatedAt.Equal(first.CreatedAt) {
			t.Errorf("%+v, then %+v", first, again)
		}
		err := db.Update(ctx, func(tx *metadata.Tx) error {
			_, _, err := tx.PutTrustPolicy(ctx, metadata.TrustPolicy{Team: "nobody", Name: "x"})
			return err
		})
		if !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("for a team that is not there: %v", err)
		}
		tr.update(func(ctx context.Context, tx *metadata.Tx) error {
			for _, url := range []string{tr.h.URL, tr.h.URL, "https://b.example.com"} {
				if i, err := tx.PutTrustIssuer(ctx, url, "admin"); err != nil || i.URL != url || i.CreatedBy != "admin" {
					t.Errorf("%+v, %v", i, err)
				}
			}
			all, err := tx.TrustIssuers(ctx, "", 10)
			if got := slices.Collect(urls(all)); !slices.Equal(got, []string{tr.h.URL, "https://b.example.com"}) {
				t.Errorf("issuers: %v", got)
			}
			return err
		})
		for url, want := range map[string]error{tr.h.URL: oci.ErrConflict, "https://b.example.com": nil, "https://c.example.com": oci.ErrNotFound} {
			if err := db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteTrustIssuer(ctx, url) }); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("deleting %s: %v, want %v", url, err, want)
			}
		}
		tr.update(func(ctx context.Context, tx *metadata.Tx) error {
			if err := tx.TouchTrustPolicy(ctx, first.ID); err != nil {
				return err
			}
			p, err := tx.TrustPolicy(ctx, "core", "main")
			if p.LastUsedAt == nil {
				t.Error("its use was not noted")
			}
			return err
		})
		// A team's policies go with the team.
		tr.update(func(ctx context.Context, tx *metadata.Tx) error {
			return tx.DeleteTeam(ctx, "core")
		})
		tr.update(func(ctx context.Context, tx *metadata.Tx) error {
			if _, err := tx.TrustPolicyByID(ctx, first.ID); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("after its team was deleted: %v", err)
			}
			return nil
		})
	})
}

func urls(issuers []metadata.TrustIssuer) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, i := range issuers {
			if !yield(i.URL) {
				return
			}
		}
	}
}
