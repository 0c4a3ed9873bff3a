package registry

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"berth/auth"
	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ways are all that make a repository.
var ways = []struct {
	name string
	make func(e *env, actor auth.Actor, repo string) error
}{
	{"a blob in one request", func(e *env, actor auth.Actor, repo string) error {
		_, err := e.r.PutBlob(e.ctx, actor, repo, digest.FromString("x"+repo), -1, strings.NewReader("x"+repo))
		return err
	}},
	{"an upload", func(e *env, actor auth.Actor, repo string) error {
		u, err := e.r.StartUpload(e.ctx, actor, repo, digest.SHA256)
		if err != nil {
			return err
		}
		_, err = e.r.CommitUpload(e.ctx, actor, repo, u.ID, digest.FromString("y"+repo), -1, -1, strings.NewReader("y"+repo))
		return err
	}},
	{"an upload of a known blob", func(e *env, actor auth.Actor, repo string) error {
		u, err := e.r.StartUpload(e.ctx, actor, repo, digest.SHA256)
		if err != nil {
			return err
		}
		_, err = e.r.CommitUpload(e.ctx, actor, repo, u.ID, digest.FromString("known"), -1, -1, strings.NewReader("known"))
		return err
	}},
	{"a mount", func(e *env, actor auth.Actor, repo string) error {
		ok, err := e.r.MountBlob(e.ctx, actor, repo, digest.FromString("known"), "other/app")
		if err == nil && !ok {
			e.Error("the blob was not mounted")
		}
		return err
	}},
	{"a manifest", func(e *env, actor auth.Actor, repo string) error {
		raw := []byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[]}`)
		_, err := e.r.PushManifest(e.ctx, actor, repo, tagged("1"), nil, v1.MediaTypeImageIndex, raw)
		return err
	}},
	{"a request", func(e *env, actor auth.Actor, repo string) error {
		_, created, err := e.r.CreateRepository(e.ctx, actor, repo)
		if err == nil && !created {
			e.Error("the repository was there")
		}
		return err
	}},
}

// Whichever way a repository comes to be: its visibility is the team's, the audit log has one line, about whoever
// made it, and the team's quota holds.
func TestOneWayToMakeARepository(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.push(e.r, "other/app", []byte("known"))
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			_, err := tx.CreateTeam(e.ctx, "team", metadata.Internal)
			return err
		}))
		actor := robot("10.0.0.1")
		created := func(repo string) (events []metadata.AuditEvent) {
			e.ok(e.r.db.View(e.ctx, func(tx *metadata.Tx) (err error) {
				events, err = tx.AuditEvents(e.ctx, metadata.AuditFilter{Repository: repo, Action: "createRepository", Limit: 10})
				return err
			}))
			return events
		}
		for i, way := range ways {
			repo := "team/app" + string(rune('a'+i))
			e.ok(way.make(e, actor, repo))
			got := created(repo)
			if len(got) != 1 || got[0].Actor.Name != actor.String() || got[0].Actor.Kind != "robot" || got[0].Actor.Address != "10.0.0.1" || got[0].Actor.RequestID != "r1" || got[0].Team != "team" {
				t.Errorf("%s: the audit log says %+v", way.name, got)
			}
			if v := e.strings(`SELECT visibility || ' ' || created_by FROM repositories WHERE name = '` + repo + `'`); !slices.Equal(v, []string{"internal team+ci"}) {
				t.Errorf("%s: made %v", way.name, v)
			}
		}
		// Again, and nothing is made.
		if _, again, err := e.r.CreateRepository(e.ctx, actor, "team/appa"); again || err != nil {
			t.Error(again, err)
		}
		e.push(e.r, "team/appa", []byte("more"))
		if got := created("team/appa"); len(got) != 1 {
			t.Errorf("a repeated request is in the audit log: %+v", got)
		}

		e.limit(0, int64(len(ways)), 0)
		for _, way := range ways {
			e.is(way.make(e, actor, "team/toomuch"), oci.ErrDenied, "quota")
			if left := e.strings(`SELECT name FROM repositories WHERE name = 'team/toomuch'`); len(left) > 0 || len(created("team/toomuch")) > 0 {
				t.Errorf("%s goes round the quota", way.name)
			}
		}
	})
}

// A team that only a provider knows has a row from its first repository on, and not before.
func TestProvidersTeamGetsARow(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			_, err := tx.PutExternalUser(e.ctx, metadata.ExternalUser{Source: "ldap", Subject: "1", Name: "lea", Teams: map[string]string{"team": metadata.RoleMaintainer}})
			return err
		}))
		teams := func() []string { return e.strings(`SELECT name FROM teams ORDER BY name`) }
		if got := teams(); len(got) > 0 {
			t.Errorf("%v before the first use", got)
		}
		e.push(e.r, "nobody/app", []byte("x"))
		e.push(e.r, repo, []byte("x"))
		e.push(e.r, "team/second", []byte("x"))
		if got := teams(); !slices.Equal(got, []string{"team"}) {
			t.Errorf("the teams are %v, want the one of the provider", got)
		}
		if got := e.strings(`SELECT principal || ' ' || team FROM audit_events WHERE action = 'createTeam'`); !slices.Equal(got, []string{alice + " team"}) {
			t.Errorf("the audit log says %v", got)
		}
		e.limit(1<<30, 10, 10)
	})
}

// A repository is deleted in one way, with its line; what is checked before stops it.
func TestDeleteRepository(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.push(e.r, repo, []byte("x"))
		stop := oci.Errorf(oci.CodeConflict, "the repository is needed for now, delete it later")
		e.is(e.r.DeleteRepository(e.ctx, as(bob), repo, func(metadata.Repository) error { return stop }), oci.ErrConflict)
		e.there(repo, digest.FromString("x"))
		e.ok(e.r.DeleteRepository(e.ctx, as(bob), repo, nil))
		e.is(e.r.DeleteRepository(e.ctx, as(bob), repo, nil), oci.ErrNameUnknown)
		if got := e.strings(`SELECT principal || ' ' || repository FROM audit_events WHERE action = 'deleteRepository'`); !slices.Equal(got, []string{bob + " " + repo}) {
			t.Errorf("the audit log says %v", got)
		}
	})
}

// Looking at an image's size is no pull of it, nor of the images of an index.
func TestImageSizeIsNoPull(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		raw := e.image(e.r, repo, "one")
		e.pushManifest(e.r, repo, tagged("1"), nil, v1.MediaTypeImageManifest, raw)
		index := e.marshal(v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{desc(v1.MediaTypeImageManifest, raw)}})
		index = bytes.Replace(index, []byte(`"schemaVersion":0`), []byte(`"schemaVersion":2`), 1)
		e.pushManifest(e.r, repo, tagged("all"), nil, v1.MediaTypeImageIndex, index)
		fresh := e.replica()
		for _, d := range []digest.Digest{digest.FromBytes(raw), digest.FromBytes(index)} {
			if n, err := fresh.ImageSize(e.ctx, repo, d); n == 0 || err != nil {
				t.Fatal(n, err)
			}
		}
		if n, err := fresh.RecordPulls(e.ctx); n != 0 || err != nil {
			t.Errorf("%d pulls were noted, %v", n, err)
		}
	})
}

// An image goes with its last tag and not before, and comes back with it by the tag or by its digest. One that an index
// needs stays. The lines of the audit log name the digest.
func TestDeleteImage(t *testing.T) {
	withUndo(t, func(t *testing.T, e *env) {
		raw := e.image(e.r, repo, "one")
		d := digest.FromBytes(raw)
		for _, tag := range []string{"1", "2"} {
			e.pushManifest(e.r, repo, tagged(tag), nil, v1.MediaTypeImageManifest, raw)
		}
		pull := func() error {
			_, err := e.r.Manifest(e.ctx, repo, digested(d))
			return err
		}
		e.is(e.r.DeleteImage(e.ctx, as(alice), repo, "none"), oci.ErrManifestUnknown)
		e.ok(e.r.DeleteImage(e.ctx, as(alice), repo, "1"))
		e.ok(pull())
		e.ok(e.r.DeleteImage(e.ctx, as(alice), repo, "2"))
		e.is(pull(), oci.ErrManifestUnknown)
		got := e.strings(`SELECT action || ' ' || reference || ' ' || digest FROM audit_events WHERE action LIKE 'delete%' ORDER BY at, action DESC`)
		if want := []string{"deleteTag 1 " + d.String(), "deleteTag 2 " + d.String(), "deleteManifest  " + d.String()}; !slices.Equal(got, want) {
			t.Errorf("the audit log says %q, want %q", got, want)
		}

		if r := e.restore("2", ""); !r.Manifest || r.Digest != d {
			t.Errorf("restored %+v", r)
		}
		e.ok(pull())
		e.ok(e.r.DeleteImage(e.ctx, as(alice), repo, "2"))
		if r := e.restore("", d); !slices.Equal(r.Tags, []string{"2"}) {
			t.Errorf("restored %+v", r)
		}

		index := e.marshal(v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{desc(v1.MediaTypeImageManifest, raw)}})
		index = bytes.Replace(index, []byte(`"schemaVersion":0`), []byte(`"schemaVersion":2`), 1)
		e.pushManifest(e.r, repo, tagged("all"), nil, v1.MediaTypeImageIndex, index)
		e.ok(e.r.DeleteImage(e.ctx, as(alice), repo, "2"))
		e.ok(pull())
		e.policy(metadata.Sealed)
		e.is(e.r.DeleteImage(e.ctx, as(alice), repo, "all"), oci.ErrTagImmutable)
	})
}
