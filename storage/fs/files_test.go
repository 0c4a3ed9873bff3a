package fs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"berth/storage"
	"berth/storage/fs"
	"berth/storage/storagetest"
)

func open(t testing.TB, dir string, o fs.Options) *fs.Store {
	t.Helper()
	s, err := fs.New(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t testing.TB, store storage.Store, s storage.Session, data []byte) storage.Session {
	t.Helper()
	next, n, err := store.Append(t.Context(), s, bytes.NewReader(data), io.Discard)
	if err != nil || n != int64(len(data)) {
		t.Fatalf("%d of %d bytes, %v", n, len(data), err)
	}
	return next
}

func commit(t testing.TB, store storage.Store, s storage.Session) string {
	t.Helper()
	key, err := store.Commit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// files lists the files below a directory.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(name, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestOneFilePerObject(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, fs.Options{})
	if got := files(t, dir); len(got) != 0 {
		t.Fatalf("a new store has files: %v", got)
	}
	id := storagetest.NewID()
	key := commit(t, s, add(t, s, s.Begin(id), []byte("hello")))
	if want := id[:2] + "/" + id; key != want {
		t.Errorf("the key is %q, want %q", key, want)
	}
	if got := files(t, dir); len(got) != 1 || got[0] != key {
		t.Errorf("the files are %v, want %s", got, key)
	}
	info, err := os.Stat(filepath.Join(dir, key))
	if err != nil || info.Mode().Perm() != 0o440 {
		t.Errorf("the object's mode is %v, %v; want it without write permission", info.Mode(), err)
	}
	session := s.Begin(storagetest.NewID())
	for range 3 {
		session = add(t, s, session, []byte("hello"))
	}
	if err := s.Delete(t.Context(), key, commit(t, s, session)); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("Delete leaves %v", got)
	}
}

// A plain file lets the server use sendfile.
func TestOpenGivesTheFile(t *testing.T) {
	s := open(t, t.TempDir(), fs.Options{})
	key := commit(t, s, add(t, s, s.Begin(storagetest.NewID()), []byte("hello, world")))
	for name, store := range map[string]storage.Store{
		"as it is":     s,
		"instrumented": storage.Instrument(s, "fs", func(context.Context, string, float64, error) {}),
	} {
		r, err := store.Open(t.Context(), key, 7, -1)
		if err != nil {
			t.Fatal(err)
		}
		f, ok := r.(*os.File)
		if !ok {
			t.Fatalf("%s: Open gives a %T", name, r)
		}
		if at, err := f.Seek(0, io.SeekCurrent); at != 7 || err != nil {
			t.Errorf("%s: the file is at %d, %v", name, at, err)
		}
		f.Close()
		r, err = store.Open(t.Context(), key, 2, 5)
		if err != nil {
			t.Fatal(err)
		}
		var to readerFrom
		if _, err := io.Copy(&to, r); err != nil {
			t.Error(err)
		}
		if l, ok := to.from.(*io.LimitedReader); !ok || l.N != 0 {
			t.Errorf("%s: a range is copied from a %T", name, to.from)
		} else if _, ok := l.R.(*os.File); !ok {
			t.Errorf("%s: a range is copied from a %T", name, l.R)
		}
		r.Close()
	}
}

// readerFrom is what a TCP connection is to io.Copy.
type readerFrom struct{ from io.Reader }

func (r *readerFrom) Write(p []byte) (int, error) { return len(p), nil }
func (r *readerFrom) ReadFrom(from io.Reader) (int64, error) {
	r.from = from
	return io.Copy(struct{ io.Writer }{io.Discard}, from)
}

const (
	childDir     = "BERTH_TEST_FS_DIR"
	childSession = "BERTH_TEST_FS_SESSION"
)

// TestChild is the process that TestKill kills.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	s := open(t, dir, fs.Options{})
	r, w := io.Pipe()
	go func() {
		w.Write(storagetest.Bytes(3<<20, 99)) // and no end
	}()
	s.Append(t.Context(), storage.Session(os.Getenv(childSession)), r, io.Discard)
}

// TestKill kills a process in the middle of an Append; another one continues
// where the session says, as often as need be.
func TestKill(t *testing.T) {
	for _, before := range []int{0, 200_000} {
		dir := t.TempDir()
		s := open(t, dir, fs.Options{})
		id := storagetest.NewID()
		data := storagetest.Bytes(before+500_000, 1)
		session := s.Begin(id)
		if before > 0 {
			session = add(t, s, session, data[:before])
		}
		for range 2 {
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
			child.Env = append(os.Environ(), childDir+"="+dir, childSession+"="+string(session))
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			for { // until it writes
				if info, err := os.Stat(filepath.Join(dir, id[:2], id)); err == nil && info.Size() > int64(before)+1<<20 {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = child.Wait() // killed
		}
		session = add(t, s, session, data[before:])
		key := commit(t, s, session)
		got, err := os.ReadFile(filepath.Join(dir, key))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("after %d bytes and a kill: %d bytes, want %d, %v", before, len(got), len(data), err)
		}
	}
}

func TestLostBytesEndTheSession(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, fs.Options{})
	boot := regexp.MustCompile(`"b":"[^"]*"`)
	for _, c := range []struct {
		name string
		lose func(file string, s storage.Session) (storage.Session, error)
	}{
		{"a shorter file", func(file string, s storage.Session) (storage.Session, error) { return s, os.Truncate(file, 99_999) }},
		{"no file", func(file string, s storage.Session) (storage.Session, error) { return s, os.Remove(file) }},
		{"another boot", func(_ string, s storage.Session) (storage.Session, error) {
			if !boot.MatchString(string(s)) {
				return s, errors.New("the session does not name the boot")
			}
			return storage.Session(boot.ReplaceAllString(string(s), `"b":"`+rand.Text()+`"`)), nil
		}},
		{"a damaged turn file", func(file string, s storage.Session) (storage.Session, error) {
			return s, os.WriteFile(file+".turn", []byte("x"), 0o600)
		}},
	} {
		id := storagetest.NewID()
		session, err := c.lose(filepath.Join(dir, id[:2], id), add(t, s, s.Begin(id), make([]byte, 100_000)))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Append(t.Context(), session, strings.NewReader("more"), io.Discard); !errors.Is(err, storage.ErrSession) {
			t.Errorf("%s: Append: %v", c.name, err)
		}
		if _, err := s.Commit(t.Context(), session); !errors.Is(err, storage.ErrSession) {
			t.Errorf("%s: Commit: %v", c.name, err)
		}
		if _, err := s.OpenSession(t.Context(), session); !errors.Is(err, storage.ErrSession) {
			t.Errorf("%s: OpenSession: %v", c.name, err)
		}
		if err := s.Abort(t.Context(), session); err != nil {
			t.Errorf("%s: Abort: %v", c.name, err)
		}
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("Abort leaves %v", got)
	}
}

// A directory that several machines mount has no boot.
func TestSharedSessionsOutliveTheBoot(t *testing.T) {
	dir := t.TempDir()
	s := add(t, open(t, dir, fs.Options{Shared: true}), open(t, dir, fs.Options{}).Begin(storagetest.NewID()), []byte("hello"))
	if strings.Contains(string(s), `"b"`) {
		t.Errorf("the session names a boot: %s", s)
	}
	commit(t, open(t, dir, fs.Options{Shared: true}), s)
}

// Versions that wrote the turn file in place left an empty one on a full disk, before any byte: the session goes on.
func TestEmptyTurnFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, fs.Options{})
	id := storagetest.NewID()
	session := add(t, s, s.Begin(id), []byte("first"))
	if err := os.WriteFile(filepath.Join(dir, id[:2], id)+".turn", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	key := commit(t, s, add(t, s, session, []byte(" second")))
	rc, err := s.Open(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); string(got) != "first second" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

// Only root could write to a sealed file; Append and Commit do not ask for that.
func TestSealedFilesAreNotWrittenTo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, fs.Options{})
	session := add(t, s, s.Begin(storagetest.NewID()), []byte("hello"))
	key := commit(t, s, session)
	if again := commit(t, s, session); again != key {
		t.Errorf("the second Commit gives %q, not %q", again, key)
	}
	if _, _, err := s.Append(t.Context(), session, strings.NewReader("more"), io.Discard); !errors.Is(err, storage.ErrSession) {
		t.Errorf("Append to an object: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, key)); string(got) != "hello" {
		t.Errorf("the object is %q, %v", got, err)
	}
}

// What is no file is no object, for Stat and Open as for Walk: so a check calls the object missing, and a push heals it.
func TestWhatIsNoFileIsNoObject(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, fs.Options{})
	key := commit(t, s, s.Begin(storagetest.NewID()))
	name := filepath.Join(dir, key)
	for what, put := range map[string]func() error{
		"a directory": func() error { return os.Mkdir(name, 0o750) },
		"a link":      func() error { return os.Symlink("/etc/hostname", name) },
		"a pipe":      func() error { return exec.Command("mkfifo", name).Run() },
	} {
		if err := errors.Join(os.Remove(name), put()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Stat of %s gives %v", what, err)
		}
		if _, err := s.Open(t.Context(), key, 0, -1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Open of %s gives %v", what, err)
		}
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, fs.Options{})
	id := storagetest.NewID()
	key := commit(t, s, s.Begin(id))
	if err := os.Remove(filepath.Join(dir, key)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, key)); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Open(t.Context(), key, 0, -1); err == nil {
		r.Close()
		t.Error("Open follows a link out of the directory")
	}
	if _, _, err := s.Append(t.Context(), s.Begin(id), strings.NewReader("x"), io.Discard); err == nil {
		t.Error("Append follows a link out of the directory")
	}
	if got, _ := os.ReadFile(outside); string(got) != "secret" {
		t.Errorf("the file outside is %q", got)
	}
}

// TestPing: reading and writing are told apart, and asking leaves nothing behind.
func TestPing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir, fs.Options{})
	for name, ask := range map[string]func(context.Context) error{"Ping": s.Ping, "Writable": s.Writable} {
		if err := ask(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("asking leaves %v", got)
	}
	if os.Geteuid() != 0 { // root may write everywhere
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if ping, write := s.Ping(t.Context()), s.Writable(t.Context()); ping != nil || write == nil {
			t.Errorf("in a directory that cannot be written to: %v, %v", ping, write)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if ping, write := s.Ping(t.Context()), s.Writable(t.Context()); ping == nil || write == nil {
		t.Errorf("without the directory: %v, %v", ping, write)
	}
}

func TestTricklers(t *testing.T) {
	if storagetest.WithoutRaceDetector(t) {
		return
	}
	budget := storage.NewBudget(0)
	s := open(t, t.TempDir(), fs.Options{Budget: budget})
	alone, trickling := storagetest.Speeds(t, s, 256<<20, 200)
	t.Logf("256 MiB alone: %.0f MB/s; with 200 trickling clients: %.0f MB/s, %.0f %%", alone/1e6, trickling/1e6, 100*trickling/alone)
	if trickling < alone/2 {
		t.Error("the push runs at less than half its speed")
	}
	if now, _, _ := budget.Usage(); now != 0 {
		t.Errorf("%d bytes of buffers are in use after the last upload", now)
	}
}

func TestResidentMemory(t *testing.T) {
	if storagetest.WithoutRaceDetector(t) {
		return
	}
	s := open(t, t.TempDir(), fs.Options{})
	peak, took := storagetest.Uploads(t, s, 100, 16<<20)
	t.Logf("100 uploads of 16 MiB at once: %d MiB resident at most, %v", peak>>20, took.Round(time.Millisecond))
	if peak > 200<<20 {
		t.Errorf("%d MiB resident, want less than 200", peak>>20)
	}
}

func FuzzSession(f *testing.F) {
	s := open(f, f.TempDir(), fs.Options{})
	f.Add(string(s.Begin(storagetest.NewID())))
	f.Add(`{"id":"0123456789abcdef0123456789abcdef","n":5,"t":"../x","b":"y"}`)
	f.Fuzz(func(t *testing.T, text string) {
		// Whatever it says, it leads to no file outside, and to no panic.
		next, n, err := s.Append(t.Context(), storage.Session(text), strings.NewReader(""), io.Discard)
		if n != 0 || next != storage.Session(text) {
			t.Errorf("%q: %q, %d, %v", text, next, n, err)
		}
		if err := s.Abort(t.Context(), storage.Session(text)); err != nil && !errors.Is(err, storage.ErrSession) {
			t.Errorf("%q: Abort: %v", text, err)
		}
	})
}
