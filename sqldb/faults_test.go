package sqldb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"berth/oci"
	"berth/testenv"
)

// openFaulty opens a migrated database on Postgres with short bounds.
func openFaulty(t *testing.T, o Options) *DB {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	db, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	if _, err := db.Migrate(t.Context(), words); err != nil {
		t.Fatal(err)
	}
	return db
}

// through gives the URL of a database with a proxy before it.
func through(t *testing.T, database string) (string, *testenv.Proxy) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	p := testenv.NewProxy(t, u.Host)
	u.Host = p.Addr
	return u.String(), p
}

// fill makes n connections at once.
func (db *DB) fill(t *testing.T, n int) {
	t.Helper()
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			if err := db.View(t.Context(), func(tx *Tx) error {
				var none string
				return tx.Row(t.Context(), `SELECT pg_sleep(0.3)::text`).Scan(&none)
			}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// A Postgres that is stopped (SIGSTOP) keeps nobody for longer than the bound, and serves again at once.
func TestStoppedPostgresKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	server := testenv.StartPostgres(t)
	db := openFaulty(t, Options{URL: server.URL(), MaxConns: 4})
	db.fill(t, 4)
	if err := server.Process.Freeze(); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	var group sync.WaitGroup
	for i := range 24 { // more than there are connections
		group.Go(func() {
			do := func() error { return db.read(t.Context()) }
			if i%2 == 0 {
				do = func() error { return db.add(t.Context(), fmt.Sprint("frozen-", i)) }
			}
			if err := do(); !errors.Is(err, oci.ErrUnavailable) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	group.Wait()
	// Without a bound of our own they would wait for as long as the server is stopped: for ever here.
	t.Logf("all had an answer after %v", time.Since(frozen))
	if err := server.Process.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := db.read(t.Context()); err != nil {
		t.Errorf("the first read afterwards: %v", err)
	}
	if err := db.add(t.Context(), "thawed"); err != nil {
		t.Errorf("the first write afterwards: %v", err)
	}
}

// Of a pool full of connections that lead nowhere one is waited for, and the others are given up at once.
func TestBlackholedConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	for _, rested := range []bool{false, true} {
		t.Run(fmt.Sprintf("rested=%v", rested), func(t *testing.T) {
			t.Parallel()
			address, proxy := through(t, testenv.Postgres(t))
			db := openFaulty(t, Options{URL: address, MaxConns: 8})
			db.fill(t, 8)
			if rested {
				time.Sleep(restUntested + 100*time.Millisecond)
			}
			proxy.HoldConnections()
			err := db.read(t.Context())
			if rested && err != nil {
				t.Errorf("a connection that has rested is tested before it is used: %v", err)
			}
			if err != nil && !errors.Is(err, oci.ErrUnavailable) {
				t.Error(err)
			}
			for range 8 {
				if err := db.read(t.Context()); err != nil {
					t.Errorf("after the first dead connection was found: %v", err)
				}
			}
			if err := db.add(t.Context(), "after"); err != nil {
				t.Error(err)
			}
		})
	}
}

// terminate ends all sessions of a database, and waits until they are gone.
func terminate(t *testing.T, database string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for left := 1; left > 0; {
		err := conn.QueryRow(ctx, `SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&left)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func execute(t *testing.T, database, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// databaseName is that of the database in a URL.
func databaseName(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// A connection that Postgres has just closed (57P01) costs nobody a request.
func TestClosedConnectionsAreTriedOnce(t *testing.T) {
	t.Parallel()
	address := testenv.Postgres(t)
	db := openFaulty(t, Options{URL: address, MaxConns: 4, Timeout: DefaultTimeout})
	ctx := t.Context()
	for name, do := range map[string]func(int) error{
		"View": func(int) error { return db.read(ctx) },
		"Snapshot": func(int) error {
			return db.Snapshot(ctx, func(tx *Tx) error { _, err := tx.words(ctx); return err })
		},
		"Update": func(i int) error { return db.add(ctx, fmt.Sprint("update-", i)) },
		"StatementRelaxed": func(int) error {
			return db.StatementRelaxed(ctx, func(tx *Tx) error { _, err := tx.Exec(ctx, `DELETE FROM words WHERE word = 'none'`); return err })
		},
	} {
		for i := range 3 {
			db.fill(t, 4)
			if err := do(100 + i); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			terminate(t, address)
			if err := do(i); err != nil {
				t.Errorf("%s on a connection that was closed: %v", name, err)
			}
		}
	}
}

// A Postgres that became read-only is told apart from one that is broken, reads go on, and
// nobody has to close connections when it takes writes again.
func TestReadOnlyPostgres(t *testing.T) {
	t.Parallel()
	address := testenv.Postgres(t)
	db := openFaulty(t, Options{URL: address, MaxConns: 4, Timeout: DefaultTimeout})
	ctx := t.Context()
	name := databaseName(t, address)
	db.fill(t, 4)
	if err := db.TakesWrites(ctx); err != nil {
		t.Errorf("before: %v", err)
	}
	// Sessions that begin from now on are read-only until they end, as those with a server that was demoted.
	execute(t, address, `ALTER DATABASE `+name+` SET default_transaction_read_only = on`)
	terminate(t, address)
	db.fill(t, 4)
	if err := db.add(ctx, "refused"); !errors.Is(err, oci.ErrUnavailable) || !strings.Contains(err.Error(), "takes no writes") {
		t.Errorf("a write: %v", err)
	}
	if err := db.TakesWrites(ctx); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("TakesWrites: %v", err)
	}
	if err := db.read(ctx); err != nil {
		t.Errorf("a read: %v", err)
	}
	db.fill(t, 4) // a pool full of read-only sessions
	execute(t, "postgres://postgres@"+strings.TrimPrefix(address, "postgres://postgres@")+"&default_transaction_read_only=off",
		`ALTER DATABASE `+name+` RESET default_transaction_read_only`)
	for i := range 8 {
		if err := db.add(ctx, fmt.Sprint("taken-", i)); err != nil {
			t.Errorf("a write when it takes them again: %v", err)
		}
	}
	if err := db.TakesWrites(ctx); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Behind pgbouncer in transaction mode everything works that rests in no session.
func TestPgBouncerInTransactionMode(t *testing.T) {
	t.Parallel()
	address := testenv.PgBouncer(t, testenv.Postgres(t))
	ctx := t.Context()
	db := openFaulty(t, Options{URL: address, Pooled: true, MaxConns: 16, ReadCache: 1 << 20, Timeout: DefaultTimeout})
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			for n := range 5 {
				if err := db.add(ctx, fmt.Sprintf("pooled-%d-%d", i, n)); err != nil {
					t.Error(err)
				}
				if err := db.read(ctx); err != nil {
					t.Error(err)
				}
				if err := db.UpdateRelaxed(ctx, func(tx *Tx) error {
					_, err := tx.Exec(ctx, `INSERT INTO words (word) VALUES ($1)`, fmt.Sprintf("relaxed-%d-%d", i, n))
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	var timeout, durable string
	if err := db.UpdateRelaxed(ctx, func(tx *Tx) error {
		if err := tx.Row(ctx, `SHOW statement_timeout`).Scan(&timeout); err != nil {
			return err
		}
		return tx.Row(ctx, `SHOW synchronous_commit`).Scan(&durable)
	}); err != nil || timeout != "20s" || durable != "off" {
		t.Errorf("statement_timeout %s, synchronous_commit %s, %v", timeout, durable, err)
	}
	if err := db.Update(ctx, func(tx *Tx) error { return tx.Row(ctx, `SHOW synchronous_commit`).Scan(&durable) }); err != nil || durable != "on" {
		t.Errorf("a durable transaction has synchronous_commit %s, %v", durable, err)
	}
}

// Who has not said that there is a pooler is told what to do.
func TestPgBouncerWithoutTheSetting(t *testing.T) {
	t.Parallel()
	address := testenv.PgBouncer(t, testenv.Postgres(t))
	_, err := Open(t.Context(), Options{URL: address})
	if err == nil || !strings.Contains(err.Error(), "BERTH_DATABASE_POOLED") {
		t.Errorf("the error does not name the setting: %v", err)
	}
}

// The database's time goes on evenly, whatever happens to the machine's clock between readings and how long they take.
func TestServerClock(t *testing.T) {
	base := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	machine, server := base, base.Add(time.Hour)
	pass := func(d time.Duration) { machine, server = machine.Add(d), server.Add(d) }
	c := &serverClock{local: func() time.Time { return machine }, log: slog.New(slog.DiscardHandler)}
	ask := func(there, back time.Duration) func(context.Context) (time.Time, error) {
		return func(context.Context) (time.Time, error) {
			pass(there)
			told := server
			pass(back)
			return told, nil
		}
	}
	read := func(there, back time.Duration) {
		t.Helper()
		if err := c.read(t.Context(), ask(there, back)); err != nil {
			t.Fatal(err)
		}
	}
	read(5*time.Millisecond, 5*time.Millisecond)
	if !c.now().Equal(server) {
		t.Errorf("%v, want %v", c.now(), server)
	}
	pass(time.Minute)
	read(0, 2*time.Second) // a slow answer says less, so the clock does not jump
	if !c.now().Equal(server) {
		t.Errorf("after a slow answer %v, want %v", c.now(), server)
	}
	server = server.Add(time.Minute) // another server, with another clock
	read(time.Millisecond, time.Millisecond)
	if !c.now().Equal(server) {
		t.Errorf("after a change of servers %v, want %v", c.now(), server)
	}
	if err := c.read(t.Context(), func(context.Context) (time.Time, error) { return time.Time{}, errors.New("away") }); err == nil || !c.now().Equal(server) {
		t.Errorf("after no answer %v, %v", c.now(), err)
	}
}
