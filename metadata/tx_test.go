package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

// names lists the users, in order.
func names(t *testing.T, db *metadata.DB) (names []string) {
	t.Helper()
	view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
		users, err := tx.Users(ctx, "", 1000)
		for _, u := range users {
			names = append(names, u.Name)
		}
		return err
	})
	return names
}

func createUser(ctx context.Context, tx *metadata.Tx, name string) error {
	_, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: metadata.RoleUser})
	return err
}

// whileBusy holds the database's writer, on SQLite, until the given number of
// transactions wait behind it, so that they share a batch. On Postgres they just run.
func whileBusy(t *testing.T, db *metadata.DB, submit []func()) {
	t.Helper()
	var wg sync.WaitGroup
	if db.Engine() == "sqlite" {
		held, release := make(chan struct{}), make(chan struct{})
		wg.Go(func() {
			if err := db.Update(context.Background(), func(*metadata.Tx) error { close(held); <-release; return nil }); err != nil {
				t.Error(err)
			}
		})
		<-held
		defer func() { wg.Wait() }()
		defer func() {
			time.Sleep(50 * time.Millisecond) // they are in the queue by now, or form a batch of their own
			close(release)
		}()
	}
	for _, f := range submit {
		wg.Go(f)
	}
	if db.Engine() == "postgres" {
		wg.Wait()
	}
}

// Those that fail, panic or have given up do not touch the others of their batch.
func TestUpdateIsolation(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := context.Background()
		gone, cancel := context.WithCancel(ctx)
		cancel()
		boom := errors.New("boom")
		const n = 30
		errs := make([]error, n)
		var submit []func()
		var ran atomic.Bool
		for i := range n {
			submit = append(submit, func() {
				name := fmt.Sprintf("user%02d", i)
				update := db.Update
				if i%2 == 1 {
					update = db.UpdateRelaxed
				}
				c := ctx
				if i%5 == 4 {
					c = gone
				}
				errs[i] = update(c, func(tx *metadata.Tx) error {
					if i%5 == 4 {
						ran.Store(true)
					}
					if err := createUser(c, tx, name); err != nil {
						return err
					}
					switch i % 5 {
					case 1:
						return boom
					case 2:
						panic("a bug")
					case 3: // a statement that fails
						return tx.Exec(ctx, `INSERT INTO users (name, role, created_at, updated_at) VALUES ($1, 'king', 1, 1)`, name+"x")
					}
					return nil
				})
			})
		}
		panics := 0
		for i, f := range submit {
			submit[i] = func() {
				defer func() {
					if p := recover(); p != nil { // Postgres runs it on the caller's goroutine
						errs[i] = fmt.Errorf("panic %v", p)
					}
				}()
				f()
			}
		}
		whileBusy(t, db, submit)
		var want []string
		for i, err := range errs {
			switch i % 5 {
			case 0:
				want = append(want, fmt.Sprintf("user%02d", i))
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
			case 1:
				if !errors.Is(err, boom) {
					t.Errorf("%d: %v", i, err)
				}
			case 2:
				if err == nil || !strings.Contains(err.Error(), "a bug") {
					t.Errorf("%d: %v", i, err)
				}
				panics++
			case 3:
				if err == nil {
					t.Errorf("%d: no error", i)
				}
			case 4:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%d: %v", i, err)
				}
			}
		}
		if got := names(t, db); !slices.Equal(got, want) {
			t.Errorf("users %q, want %q", got, want)
		}
		if ran.Load() && db.Engine() == "sqlite" {
			t.Error("a transaction ran whose context had ended")
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "after") })
	})
}

// A caller whose context ends while its transaction waits for its turn gets
// away, and the transaction does not happen.
func TestUpdateLeavesQueue(t *testing.T) {
	db := metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)})
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		db.Update(context.Background(), func(*metadata.Tx) error { close(held); <-release; return nil })
	})
	<-held
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := db.Update(ctx, func(tx *metadata.Tx) error { return createUser(ctx, tx, "late") })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(release)
	wg.Wait()
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "next") })
	if got := names(t, db); !slices.Equal(got, []string{"next"}) {
		t.Errorf("users %q", got)
	}
}

// On Postgres a durable transaction waits for the disk and a relaxed one does
// not; for SQLite see TestJournal.
func TestDurabilityOnPostgres(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		if db.Engine() != "postgres" {
			return
		}
		ctx := context.Background()
		for i := range 6 {
			var mode string
			read := func(tx *metadata.Tx) error { return tx.Value(ctx, &mode, `SHOW synchronous_commit`) }
			update := [](func(context.Context, func(*metadata.Tx) error) error){db.UpdateRelaxed, db.Update}[i%2]
			if want := []string{"off", "on"}[i%2]; update(ctx, read) != nil || mode != want {
				t.Errorf("%d: %s, want %s", i, mode, want)
			}
		}
	})
}

func TestSnapshot(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := context.Background()
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "alice") })
		count := func(tx *metadata.Tx) int {
			users, err := tx.Users(ctx, "", 10)
			if err != nil {
				t.Error(err)
			}
			return len(users)
		}
		err := db.Snapshot(ctx, func(tx *metadata.Tx) error {
			before := count(tx)
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "bob") })
			if after := count(tx); before != 1 || after != 1 {
				t.Errorf("a snapshot saw %d and %d users", before, after)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		err = db.View(ctx, func(tx *metadata.Tx) error {
			before := count(tx)
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "carol") })
			if after := count(tx); before != 2 || after != 3 {
				t.Errorf("a view saw %d and %d users", before, after)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestNow(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		tick := time.Date(2026, 1, 2, 3, 4, 5, 6789, time.FixedZone("x", 3600))
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: func() time.Time { tick = tick.Add(time.Second); return tick }})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			first := tx.Now()
			if second := tx.Now(); first != second {
				t.Errorf("%s, then %s", first, second)
			}
			if first.Location() != time.UTC || first.Nanosecond() != 6000 {
				t.Errorf("not UTC microseconds: %s", first)
			}
			return nil
		})
	})
}

// Two transactions take two tags in opposite order: one is chosen to lose, is
// run again and does its work.
func TestDeadlockIsRetried(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		r := repo(t, db, "team/app")
		d := manifest(t, db, r, "one")
		ctx := context.Background()
		var arrived sync.WaitGroup
		arrived.Add(2)
		var runs atomic.Int32
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				first := true
				err := db.Update(ctx, func(tx *metadata.Tx) error {
					runs.Add(1)
					order := []string{"a-SNAPSHOT", "b-SNAPSHOT"}
					if i == 1 {
						slices.Reverse(order)
					}
					if _, err := tx.PutTag(ctx, r, order[0], d, by(fmt.Sprint(i))); err != nil {
						return err
					}
					if first && db.Engine() == "postgres" {
						first = false
						arrived.Done()
						arrived.Wait()
					}
					_, err := tx.PutTag(ctx, r, order[1], d, by(fmt.Sprint(i)))
					return err
				})
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if n := runs.Load(); db.Engine() == "postgres" && n < 3 {
			t.Errorf("the closures ran %d times, want 3 or more: one of them is undone and runs again", n)
		}
	})
}

func TestClosed(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		ctx := context.Background()
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "alice") })
		names(t, db)
		if err := db.Ping(ctx); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
		run := func(tx *metadata.Tx) error { _, err := tx.HasUsers(ctx); return err }
		wantErr(t, db.View(ctx, run), oci.ErrUnavailable)
		wantErr(t, db.Snapshot(ctx, run), oci.ErrUnavailable)
		wantErr(t, db.Update(ctx, run), oci.ErrUnavailable)
		wantErr(t, db.UpdateRelaxed(ctx, run), oci.ErrUnavailable)
		wantErr(t, db.Ping(ctx), oci.ErrUnavailable)
		wantErr(t, db.Rest(ctx), oci.ErrUnavailable)
		db.Stats()
		if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
			if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("closing leaves the log beside the file: %v", err)
			}
		}
		again := metadatatest.Open(t, metadata.Options{URL: url})
		if got := names(t, again); !slices.Equal(got, []string{"alice"}) {
			t.Errorf("users %q", got)
		}
	})
}

// Rest gives back what is idle and disturbs nobody, also in the middle of work.
func TestRest(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprintf("user%02d", i))
		}
		work, stop := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if err := db.Rest(ctx); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		go func() {
			defer close(work)
			var users sync.WaitGroup
			for _, name := range want {
				users.Go(func() {
					err := db.Update(ctx, func(tx *metadata.Tx) error { return createUser(ctx, tx, name) })
					if err == nil {
						err = db.View(ctx, func(tx *metadata.Tx) error { _, err := tx.User(ctx, name); return err })
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			users.Wait()
		}()
		<-work
		close(stop)
		wg.Wait()
		if got := names(t, db); !slices.Equal(got, want) {
			t.Errorf("users %q, want %q", got, want)
		}
		if db.Stats().OpenConnections == 0 {
			t.Fatal("no connection is open after a statement: the test proves nothing")
		}
		if err := db.Rest(ctx); err != nil {
			t.Error(err)
		}
		// Connections to Postgres cost it more to make than this process to keep.
		if open, keeps := db.Stats().OpenConnections, db.Engine() == "postgres"; open > 0 != keeps {
			t.Errorf("%d connections are open at rest", open)
		}
	})
}

// Closing while transactions run and wait: each is either committed or refused.
func TestCloseWhileBusy(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		ctx := context.Background()
		errs := make([]error, 50)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				errs[i] = db.Update(ctx, func(tx *metadata.Tx) error { return createUser(ctx, tx, fmt.Sprintf("user%02d", i)) })
			})
			if i == 25 {
				wg.Go(func() { db.Close() })
			}
		}
		wg.Wait()
		var want []string
		for i, err := range errs {
			if err == nil {
				want = append(want, fmt.Sprintf("user%02d", i))
			} else {
				wantErr(t, err, oci.ErrUnavailable)
			}
		}
		if got := names(t, metadatatest.Open(t, metadata.Options{URL: url})); !slices.Equal(got, want) {
			t.Errorf("users %q, acknowledged %q", got, want)
		}
	})
}

func TestContext(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		run := func(tx *metadata.Tx) error { _, err := tx.HasUsers(gone); return err }
		for _, f := range []func(context.Context, func(*metadata.Tx) error) error{db.View, db.Snapshot, db.Update, db.UpdateRelaxed} {
			if err := f(gone, run); !errors.Is(err, context.Canceled) || errors.Is(err, oci.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		if db.Engine() == "sqlite" {
			return
		}
		for _, f := range []func(context.Context, func(*metadata.Tx) error) error{db.View, db.Update} {
			soon, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			started := time.Now()
			err := f(soon, func(tx *metadata.Tx) error { return tx.Exec(soon, `SELECT pg_sleep(10)`) })
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, oci.ErrUnavailable) || time.Since(started) > 5*time.Second {
				t.Errorf("after %s: %v", time.Since(started), err)
			}
			cancel()
		}
		names(t, db)
	})
}

// Losing Postgres is UNAVAILABLE, and its return is noticed.
func TestPostgresLost(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, dbURL string) {
		if engine(dbURL) == "sqlite" {
			return
		}
		u, err := url.Parse(dbURL)
		if err != nil {
			t.Fatal(err)
		}
		p := newProxy(t, u.Host)
		u.Host = p.addr
		db := metadatatest.Open(t, metadata.Options{URL: u.String()})
		ctx := context.Background()
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "alice") })
		p.cut(true)
		for range 3 {
			wantErr(t, db.View(ctx, func(tx *metadata.Tx) error { _, err := tx.User(ctx, "alice"); return err }), oci.ErrUnavailable)
			wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return createUser(ctx, tx, "bob") }), oci.ErrUnavailable)
			wantErr(t, db.Ping(ctx), oci.ErrUnavailable)
		}
		// Lost between the statements of a transaction.
		p.cut(false)
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error {
			if err := createUser(ctx, tx, "carol"); err != nil {
				return err
			}
			p.cut(true)
			return createUser(ctx, tx, "dora")
		}), oci.ErrUnavailable)
		p.cut(false)
		if got := names(t, db); !slices.Equal(got, []string{"alice"}) {
			t.Errorf("users %q", got)
		}
	})
}

// proxy stands between the program and a server, and can be cut.
type proxy struct {
	addr, target string
	mu           sync.Mutex
	down         bool
	conns        []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), target: target}
	t.Cleanup(func() { l.Close(); p.cut(true) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	s, err := net.Dial("tcp", p.target)
	if err != nil {
		p.mu.Unlock()
		return
	}
	defer s.Close()
	p.conns = append(p.conns, c, s)
	p.mu.Unlock()
	go func() { copyAll(s, c); s.Close() }()
	copyAll(c, s)
}

func copyAll(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	if down {
		for _, c := range p.conns {
			c.Close()
		}
		p.conns = nil
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for _, u := range []string{"", "mysql://x", "sqlite:", "sqlite:" + dir, "postgres://user:secret@host:notaport/db", dir + "/file.db"} {
		db, err := metadata.Open(t.Context(), metadata.Options{URL: u})
		if err == nil {
			db.Close()
			t.Errorf("%q was opened", u)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	name := dir + "/with space?&#%41/öß.db"
	db := metadatatest.Open(t, metadata.Options{URL: "sqlite:" + name})
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "alice") })
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(name + suffix)
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s%s has mode %s: it holds password hashes and signing keys", name, suffix, info.Mode())
		}
	}
}

// A function that may run one statement cannot run two, which would be two transactions.
func TestStatementRelaxed(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		run := func(ids ...string) (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panic: %v", p)
				}
			}()
			return db.StatementRelaxed(t.Context(), func(tx *metadata.Tx) error {
				for _, id := range ids {
					if err := tx.CreateUpload(t.Context(), metadata.Upload{ID: id, Repository: "team/app"}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := errors.Join(run(), run("one"), run("two")); err != nil {
			t.Error(err)
		}
		if err := run("three", "four"); err == nil || !strings.Contains(err.Error(), "a second statement") {
			t.Errorf("two statements end with %v", err)
		}
		if err := run("one"); err == nil {
			t.Error("the same session was begun twice")
		}
		if err := run("five"); err != nil {
			t.Errorf("after an error: %v", err)
		}
		db.Close()
		wantErr(t, run("six"), oci.ErrUnavailable)
	})
}
