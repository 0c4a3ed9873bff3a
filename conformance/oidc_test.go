package conformance

import (
	"regexp"
	"strings"
	"testing"

	"berth/testenv"
)

// jwt is the first part of a JWT, {"…}, with its dot: three letters alone are in other random names too.
var jwt = regexp.MustCompile(`eyJ[\w-]+\.`)

// TestDockerOIDC: docker logs in with the token of a CI job, from a real OpenID
// provider, and pushes; the job of a fork does not. A person's docker asks Berth
// as its credential helper in cmd/berth.
func TestDockerOIDC(t *testing.T) {
	const audience = "https://registry.example.com"
	p := testenv.OIDC(t, testenv.OIDCSettings{Jobs: map[string]map[string]any{
		"ci":   {"repository": "acme/app", "ref": "refs/heads/main", "sha": "c0ffee"},
		"fork": {"repository": "evil/app", "ref": "refs/heads/main", "sha": "c0ffee"},
	}})
	d := &daemons{t: t}
	b := newBox(t, "DOCKER_HOST="+d.dockerd(t))
	s := Start(t, Embedded, "BERTH_OIDC_TRUSTED_ISSUERS="+p.Issuer)
	s.Berth(t, "team", "create", "core")
	s.Berth(t, "trust", "set", "core", "main", "--issuer", p.Issuer, "--audience", audience,
		"--claim", "repository=acme/app", "--claim", "ref=refs/heads/main", "--actions", "pull,push", "--robot", "ci")

	docker := testenv.Tool(t, "docker")
	out, err := b.tryIn(p.JobToken("fork", audience), docker, "login", "-u", "oidc", "--password-stdin", s.Host)
	b.fails(out, err, "no trust policy|denied|unauthorized")
	if out, err := b.tryIn(p.JobToken("ci", audience), docker, "login", "-u", "oidc", "--password-stdin", s.Host); err != nil {
		t.Fatalf("docker login: %v\n%s", err, out)
	}
	image := newArchive(t, "example.com/job:1")
	b.run(docker, "load", "-q", "-i", image.path)
	ref := s.Host + "/core/app:1.0"
	b.run(docker, "tag", "example.com/job:1", ref)
	b.run(docker, "push", ref)
	b.run(docker, "rmi", "-f", ref, "example.com/job:1")
	b.run(docker, "pull", ref)
	// Where it was built stands in the tag's history and in the audit log; no token does.
	history := s.Berth(t, "tag", "history", "core/app:1.0", "--output", "json")
	audit := s.Berth(t, "audit", "export")
	for name, text := range map[string]string{"the tag's history": history, "the audit log": audit} {
		for _, want := range []string{"core+ci", "acme/app", "refs/heads/main", "c0ffee", p.Issuer} {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %s: %s", name, want, text)
			}
		}
	}
	if !strings.Contains(audit, "jti") {
		t.Errorf("the audit log does not say which token: %s", audit)
	}
	for name, text := range map[string]string{"the log": s.Log(), "the history": history, "the audit log": audit} {
		if jwt.MatchString(text) {
			t.Errorf("a token stands in %s", name)
		}
	}
}
