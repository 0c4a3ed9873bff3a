package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"berth/testenv"
)

// command is a verb of the binary that works on the backend itself.
func (b *Backend) command(bin string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.DataDir, "TMPDIR=" + os.TempDir(), "GORACE=exitcode=66"}, b.Env...)
	return cmd
}

// berth runs such a verb, which has to succeed.
func (b *Backend) berth(t testing.TB, bin string, args ...string) string {
	t.Helper()
	out, err := b.command(bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// killed runs such a verb again and again, with kill -9 after a time that
// grows, until it comes to its end.
func (b *Backend) killed(t testing.TB, bin string, args ...string) (kills int) {
	t.Helper()
	for wait := 30 * time.Millisecond; ; wait = wait * 3 / 2 {
		cmd := b.command(bin, args...)
		var log logBuffer
		cmd.Stdout, cmd.Stderr = &log, &log
		proc, err := testenv.Start(cmd, syscall.SIGKILL)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-proc.Done():
			err := proc.Wait()
			if err == nil {
				return kills
			}
			// The lease of the one that was killed has a few seconds left.
			if !strings.Contains(log.String(), "died within the last seconds") || kills > 60 {
				t.Fatalf("berth %s after %d kills: %v\n%s", args[0], kills, err, log.String())
			}
			time.Sleep(time.Second)
		case <-time.After(wait):
			_ = proc.Stop(syscall.SIGKILL)
			kills++
		}
	}
}

// target gives the variant's other end: the other engine and the other store.
func (v Variant) other() Variant {
	return Variants()[3-slices.Index(Variants(), v)]
}

// A registry is backed up while people push, with kill -9 in between, is
// restored on the other engine and the other kind of store, likewise, and serves everything that
// was acknowledged before; what was sealed is sealed.
func TestBackupUnderLoadAndKill(t *testing.T) {
	t.Parallel()
	bin := Binary(t)
	for _, v := range Variants() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			b := NewBackend(t, v)
			s := b.Start(t)
			c := s.Admin(t)
			s.Berth(t, "team", "create", "vault")
			s.Berth(t, "team", "set", "vault", "--tag-policy", "sealed", "--exempt", "", "--yes")
			before := map[string]string{} // reference -> digest
			for i := range 4 {
				repo := fmt.Sprintf("vault/app%d", i)
				_, d := c.PushImage(repo, "1.0")
				before[repo+":1.0"] = d
			}
			large := random(6<<20 + 17)
			largeDigest := c.PushBlob("vault/app0", large)

			stop := make(chan struct{})
			var pushing sync.WaitGroup
			var pushed atomic.Int64
			pushing.Go(func() {
				c := s.Admin(t)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
						c.PushImage("load/app", fmt.Sprint("v", i))
						pushed.Add(1)
						time.Sleep(50 * time.Millisecond) // all of them are pulled at the end
					}
				}
			})
			dest := filepath.Join(t.TempDir(), "backup")
			to := NewBackend(t, v.other())
			if v == SQLiteS3 { // one that is kept in a bucket, too
				dest = b.Bucket.URL("backup")
				to.Env = append(to.Env, b.Bucket.Env()...)
			}
			kills := b.killed(t, bin, "backup", dest, "--rate", "8MiB")
			sure := pushed.Load() // acknowledged before the next backup begins
			b.berth(t, bin, "backup", dest)
			close(stop)
			pushing.Wait()
			b.berth(t, bin, "restore", dest, "--verify")

			kills += to.killed(t, bin, "restore", dest, "--rate", "8MiB")
			t.Logf("%d kills, %d images pushed meanwhile", kills, sure)
			if kills == 0 || sure == 0 {
				t.Errorf("%d kills and %d pushes: the test shows nothing", kills, sure)
			}
			r := to.Start(t)
			rc := r.Admin(t) // the password is that of the backup
			for ref, d := range before {
				repo, tag, _ := strings.Cut(ref, ":")
				pullWhole(t, rc, repo, tag, d)
			}
			for i := range sure {
				pullWhole(t, rc, "load/app", fmt.Sprint("v", i), "")
			}
			rc.Do("GET", "/v2/vault/app0/blobs/"+largeDigest, nil).Want(200).WantBody(large)
			if out, err := r.TryBerth(t, "tag", "delete", "vault/app0:1.0", "--yes"); err == nil {
				t.Errorf("a sealed tag was deleted after the restore: %s", out)
			}
			image := rc.MakeImage("vault/app0", 1)
			if got := rc.PutManifest("vault/app0", "1.0", image.MediaType, image.Bytes()); got.Status < 400 {
				t.Errorf("a sealed tag was moved after the restore: %d", got.Status)
			}
			rc.PushImage("vault/new", "1.0")
			to.berth(t, bin, "check", "--rehash", "--rate", "0", "--hash-rate", "0")

			crane := testenv.Tool(t, "crane")
			box := newBox(t)
			box.run(crane, "auth", "login", r.Host, "-u", "admin", "-p", AdminPassword)
			box.run(crane, "pull", "--insecure", r.Host+"/vault/app1:1.0", filepath.Join(t.TempDir(), "image.tar"))
		})
	}
}

// pullWhole reads a manifest and all its blobs.
func pullWhole(t testing.TB, c *Client, repo, tag, d string) {
	t.Helper()
	m := c.Do("GET", "/v2/"+repo+"/manifests/"+tag, nil).Want(200)
	if d != "" {
		m.WantHeader("Docker-Content-Digest", d)
	}
	var image Image
	m.JSON(&image)
	for _, part := range append(image.Layers, *image.Config) {
		got := c.Do("GET", "/v2/"+repo+"/blobs/"+part.Digest, nil).Want(200)
		if sha256Of(got.Body) != part.Digest {
			t.Errorf("%s:%s has a blob with other bytes", repo, tag)
		}
	}
}

// The steps of docs/migrate-storage.md: pulls never fail, pushes are refused
// only while the server is read-only, and nothing that was acknowledged is lost.
func TestMigrateStorage(t *testing.T) {
	t.Parallel()
	bin := Binary(t)
	for _, v := range []Variant{Embedded, Distributed} {
		t.Run(v.String()+" to "+v.other().String(), func(t *testing.T) {
			t.Parallel()
			b, to := NewBackend(t, v), NewBackend(t, v.other())
			if to.Variant.Storage == "s3" {
				b.Env = append(b.Env, to.Bucket.Env()...)
			}
			s := b.Start(t)
			c := s.Admin(t)
			pushed := 0
			push := func(n int) {
				for range n {
					c.PushImage("core/app", fmt.Sprint("v", pushed))
					pushed++
				}
			}
			push(5)
			verb := append([]string{"migrate-storage"}, to.target()...)
			if kills := b.killed(t, bin, verb...); kills == 0 {
				t.Error("the first run was not killed once")
			}
			push(3)
			b.berth(t, bin, verb...)
			push(2)

			s.Terminate()
			_ = s.Wait()
			ro := b.Start(t, "BERTH_READ_ONLY=true")
			roc := ro.Admin(t)
			pullWhole(t, roc, "core/app", "v0", "")
			roc.Do("POST", "/v2/core/app/blobs/uploads/", nil).WantError(405, "UNSUPPORTED")
			if out, err := ro.TryBerth(t, "team", "create", "late"); err == nil || !strings.Contains(out, "read-only") {
				t.Errorf("a read-only server makes a team: %v %s", err, out)
			}
			out := b.berth(t, bin, verb...)
			if !strings.Contains(out, "there already") {
				t.Errorf("the last run copied everything: %s", out)
			}
			moved := to.Start(t)
			mc := moved.Admin(t)
			for i := range pushed {
				pullWhole(t, mc, "core/app", fmt.Sprint("v", i), "")
			}
			mc.PushImage("core/app", "after")
			to.berth(t, bin, "check", "--rehash", "--rate", "0", "--hash-rate", "0")
			refused, err := b.command(bin, verb...).CombinedOutput()
			if err == nil || !strings.Contains(string(refused), "holds a registry already") {
				t.Errorf("a run after the target was taken into use: %v %s", err, refused)
			}
		})
	}
}

// target names the backend as migrate-storage wants it.
func (b *Backend) target() []string {
	database, store := "sqlite:"+filepath.Join(b.DataDir, "berth.db"), "file:"+filepath.Join(b.DataDir, "blobs")
	for _, kv := range b.Env {
		if v, ok := strings.CutPrefix(kv, "BERTH_DATABASE_URL="); ok {
			database = v
		}
		if v, ok := strings.CutPrefix(kv, "BERTH_STORAGE_URL="); ok {
			store = v
		}
	}
	return []string{"--to-database", database, "--to-storage", store}
}

// stored is the number of objects in the backend's store.
func (b *Backend) stored(t testing.TB) (n int) {
	t.Helper()
	if b.Variant.Storage == "s3" {
		return len(b.Bucket.Objects(t))
	}
	err := filepath.WalkDir(filepath.Join(b.DataDir, "blobs"), func(_ string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // not there yet, or a temporary file that is gone
			return nil
		case err == nil && e.Type().IsRegular():
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// settings names the backend as the target of another one, with what its bucket needs.
func (b *Backend) settings() []string {
	t := b.target()
	env := []string{"BERTH_TARGET_DATABASE_URL=" + t[1], "BERTH_TARGET_STORAGE_URL=" + t[3]}
	if b.Variant.Storage == "s3" {
		env = append(env, b.Bucket.Env()...)
	}
	return env
}

// job is what the management API tells of one.
type job struct {
	State    string
	Error    string
	Transfer struct{ Copied, Present, Lost int64 }
	Check    struct{ Open, Blobs int64 }
}

// start starts a job, once the lease of one that was killed has run out.
func (s *Server) start(t testing.TB, path, body string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		got := s.Admin(t).Do("POST", path, []byte(body), "Content-Type: application/json")
		if !strings.Contains(string(got.Body), "running already") || time.Now().After(deadline) {
			got.Want(202)
			return
		}
		time.Sleep(time.Second)
	}
}

// ends waits until the job does not run any more.
func (s *Server) ends(t testing.TB, path string) (j job) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		j = job{}
		s.Admin(t).Do("GET", path, nil).Want(200).JSON(&j)
		if j.State != "running" {
			return j
		}
	}
	t.Fatalf("the job does not end: %+v", j)
	return j
}

// A registry is migrated over the management API while pushes go on, with a cancel, and
// with kill -9 of the replica that does it, after which another one goes on; the last time by a server that is
// read-only. A backup is restored alike. What was acknowledged is served by the other registry, to the tokens of before.
func TestMigrateAndRestoreOverTheAPI(t *testing.T) {
	t.Parallel()
	const backups, restores, migrations = "/api/v1/instance/backup", "/api/v1/instance/restore", "/api/v1/instance/migration"
	for _, v := range []Variant{Embedded, Distributed} {
		t.Run(v.String()+" to "+v.other().String(), func(t *testing.T) {
			t.Parallel()
			b, to, restored := NewBackend(t, v), NewBackend(t, v.other()), NewBackend(t, v.other())
			env := append(to.settings(), "BERTH_BACKUP_URL="+filepath.Join(t.TempDir(), "backup"))
			s := b.Start(t, env...)
			c := s.Admin(t)
			s.Berth(t, "team", "create", "core")
			var robot struct{ Secret string }
			if err := json.Unmarshal([]byte(s.Berth(t, "token", "create", "ci", "--team", "core", "--actions", "pull,push", "-o", "json")), &robot); err != nil || robot.Secret == "" {
				t.Fatal("there is no secret of the robot: ", err)
			}
			digests := map[string]string{}
			push := func(n int) {
				for range n {
					tag := fmt.Sprint("v", len(digests))
					_, digests[tag] = c.PushImage("core/app", tag)
				}
			}
			push(4)
			c.PushBlob("core/app", random(3<<20))

			slow := `{"rate":65536}` // 48 seconds for the large blob
			s.start(t, migrations, slow)
			push(2)
			c.Do("POST", backups, []byte(`{}`), "Content-Type: application/json").Want(409)
			c.Do("DELETE", migrations, nil).Want(204)
			if j := s.ends(t, migrations); j.State != "cancelled" {
				t.Errorf("a cancelled migration is %+v", j)
			}
			s.start(t, migrations, slow)
			for deadline := time.Now().Add(time.Minute); to.stored(t) == 0; time.Sleep(100 * time.Millisecond) { // some of it is copied
				if time.Now().After(deadline) {
					t.Fatal("a migration has copied nothing after a minute")
				}
			}
			s.Kill()
			s.Restart(t)
			c = s.Admin(t)
			push(2)
			s.start(t, migrations, `{}`)
			if j := s.ends(t, migrations); j.State != "finished" || j.Transfer.Lost != 0 || j.Check.Open != 0 || j.Transfer.Present == 0 {
				t.Errorf("the migration that goes on is %+v", j)
			}
			push(2)
			s.start(t, backups, `{}`)
			if j := s.ends(t, backups); j.State != "finished" {
				t.Errorf("the backup is %+v", j)
			}
			s.Terminate()
			_ = s.Wait()

			ro := b.Start(t, append(env, "BERTH_READ_ONLY=true")...)
			ro.start(t, migrations, `{}`)
			if j := ro.ends(t, migrations); j.State != "finished" || j.Transfer.Copied == 0 || j.Transfer.Present == 0 || j.Check.Open != 0 {
				t.Errorf("the last migration is %+v", j)
			}
			moved := to.Start(t)
			refused := ro.Admin(t).Do("POST", migrations, []byte(`{}`), "Content-Type: application/json").Want(409)
			if !strings.Contains(string(refused.Body), "holds a registry already") {
				t.Errorf("a migration into a registry in use is refused with %s", refused.Body)
			}
			ro.Terminate()
			_ = ro.Wait()

			// The backup, into another target.
			s = b.Start(t, append(restored.settings(), env[len(env)-1])...)
			s.Admin(t).Do("POST", migrations, []byte(`{"target_database_url":"sqlite:/tmp/x"}`), "Content-Type: application/json").Want(400)
			if out, err := s.TryBerth(t, "restore", "--server", s.URL); err != nil {
				t.Errorf("berth restore --server: %v %s", err, out)
			}
			for _, r := range []*Server{moved, restored.Start(t)} {
				rc := r.Admin(t) // the password is that of before
				for tag, d := range digests {
					pullWhole(t, rc, "core/app", tag, d)
				}
				crane := testenv.Tool(t, "crane")
				box := newBox(t)
				box.run(crane, "auth", "login", r.Host, "-u", "robot", "-p", robot.Secret)
				box.run(crane, "pull", "--insecure", r.Host+"/core/app:v0", filepath.Join(t.TempDir(), "image.tar"))
				rc.PushImage("core/app", "after")
			}
		})
	}
}
