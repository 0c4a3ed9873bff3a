package registry

import (
	"strings"
	"testing"

	"berth/auth"
	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// What a push or a delete did and its line in the audit log are one transaction: one
// is there when the other is.
func TestAudit(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		robot := robot("10.0.0.1")
		log := func() (events []metadata.AuditEvent) {
			e.Helper()
			e.ok(e.r.db.View(e.ctx, func(tx *metadata.Tx) (err error) {
				events, err = tx.AuditEvents(e.ctx, metadata.AuditFilter{Limit: 100})
				return err
			}))
			return events
		}
		lines := func() string {
			var b strings.Builder
			for _, l := range log() {
				b.WriteString(l.Action + " " + l.Outcome + " " + l.Actor.Name + " " + l.Reference + "\n")
			}
			return b.String()
		}
		e.push(e.r, repo, []byte("the first")) // makes the repository
		one := e.image(e.r, repo, "one")
		two := e.image(e.r, repo, "two")
		push := func(actor auth.Actor, tag string, raw []byte) error {
			_, err := e.r.PushManifest(e.ctx, actor, repo, tagged(tag), nil, v1.MediaTypeImageManifest, raw)
			return err
		}
		e.ok(push(robot, "1.0", one))
		got := log()
		if len(got) != 2 || got[0].Digest != digest.FromBytes(one) || got[0].Repository != repo || got[0].Team != "team" || got[0].Actor.Claims["workflow"] != "release" ||
			got[0].Actor.Address != "10.0.0.1" || got[0].Actor.RequestID != "r1" {
			t.Fatalf("%+v", got)
		}
		e.ok(push(as(alice), "latest", one))
		e.ok(push(as(alice), "latest", two))
		e.is(push(as(bob), "1.0", two), oci.ErrTagImmutable)
		// A push that fails leaves nothing.
		_, err := e.r.PushManifest(e.ctx, as(bob), repo, tagged("broken"), nil, v1.MediaTypeImageManifest, []byte("{"))
		e.is(err, oci.ErrManifestInvalid)
		e.is(e.r.DeleteTag(e.ctx, as(bob), repo, "none"), oci.ErrManifestUnknown)
		e.ok(e.r.DeleteTag(e.ctx, as(bob), repo, "latest"))
		_, err = e.r.DeleteManifest(e.ctx, as(bob), repo, digest.FromBytes(one))
		e.ok(err)
		const want = `deleteManifest ok bob 
deleteTag ok bob latest
pushManifest refused bob 1.0
moveTag ok alice latest
pushManifest ok alice latest
pushManifest ok alice latest
pushManifest ok team+ci 1.0
createRepository ok alice 
`
		// The two lines of a push that moves a tag are of one instant.
		if got := lines(); got != want && got != strings.Replace(want, "moveTag ok alice latest\npushManifest ok alice latest\n", "pushManifest ok alice latest\nmoveTag ok alice latest\n", 1) {
			t.Errorf("got\n%swant\n%s", got, want)
		}

		// Provenance is in the tag's history.
		var history []metadata.TagEvent
		e.ok(e.r.db.View(e.ctx, func(tx *metadata.Tx) (err error) {
			history, err = tx.TagHistory(e.ctx, repo, "1.0", 0, 10)
			return err
		}))
		if len(history) != 3 || history[2].Action != "create" || history[2].Claims["workflow"] != "release" || history[1].Action != "refused" ||
			history[0].Action != "delete" || history[0].Actor != bob || history[0].Claims != nil {
			t.Errorf("history %+v", history)
		}
	})
}
