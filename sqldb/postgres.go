package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"berth/dial"
)

// DefaultTimeout is Options.Timeout where none is given.
const DefaultTimeout = 15 * time.Second

// Bounds of connections to Postgres, beside Options.Timeout.
const (
	connectTimeout = 5 * time.Second
	// A connection that has rested for so long is tested before it is used, and has so long to answer.
	restUntested = time.Second
	testTimeout  = 2 * time.Second
	// Connections that rest are closed after this time, and every one after that one: a balancer
	// before Postgres gets its chance, and Postgres the memory of a session back.
	maxRest = 10 * time.Minute
	maxLife = time.Hour
)

// postgres holds what all connections of a DB to Postgres share.
type postgres struct {
	base    *pgx.ConnConfig
	timeout time.Duration
	pooled  bool // behind a pooler in transaction mode
	// epoch counts how often all connections were given up; one of an earlier epoch is not used again.
	epoch atomic.Uint64
	// connected is told of each new connection.
	connected func()
}

// pgState is what is known of one connection. It lies in its CustomData, and only who holds the
// connection touches it.
type pgState struct {
	epoch uint64
	used  time.Time
}

const pgStateKey = "berth"

// newPostgres reads the URL. A URL of several hosts leads to the one that takes writes, unless it says otherwise.
func newPostgres(o Options) (*postgres, error) {
	base, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, errors.New("the database URL is not valid: it has to look like postgres://user:password@host:5432/name") // pgx's text may hold the password
	}
	p := &postgres{base: base, timeout: o.Timeout, pooled: o.Pooled}
	base.ConnectTimeout = min(connectTimeout, o.Timeout)
	base.DialFunc = dial.New(base.ConnectTimeout, o.Timeout/2).DialContext
	if len(base.Fallbacks) > 0 && !strings.Contains(o.URL, "target_session_attrs") {
		// A standby that is behind would show what was true before.
		base.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if o.Pooled {
		// A statement that is prepared by name is prepared on one of the pooler's connections only.
		base.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return p, nil
}

// limits are settings of a session, as text. A pooler passes none on: there they are set in each transaction.
func (p *postgres) limits() map[string]string {
	limits := map[string]string{
		// Ours ends a statement first; this one is for those whose end does not reach the server.
		"statement_timeout": milliseconds(p.timeout + 5*time.Second),
		// A client that dies inside of a transaction must not hold its locks.
		"idle_in_transaction_session_timeout": "60000",
	}
	for name := range limits {
		if given := p.base.RuntimeParams[name]; given != "" {
			delete(limits, name)
		}
	}
	return limits
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// open makes a pool of at most size connections whose sessions have the settings.
func (p *postgres) open(size int, settings map[string]string) *sql.DB {
	config := *p.base
	config.RuntimeParams = maps.Clone(p.base.RuntimeParams)
	config.RuntimeParams["application_name"] = "berth"
	// pgx quotes strings, and our migrations are written, for servers that follow the standard.
	config.RuntimeParams["standard_conforming_strings"] = "on"
	if !p.pooled {
		maps.Copy(config.RuntimeParams, p.limits())
		maps.Copy(config.RuntimeParams, settings)
	}
	db := stdlib.OpenDB(config,
		stdlib.OptionBeforeConnect(func(_ context.Context, c *pgx.ConnConfig) error {
			// Read before it connects: one that is made while others are given up may lead to where they led.
			epoch := p.epoch.Load()
			c.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
				conn.CustomData()[pgStateKey] = &pgState{epoch: epoch, used: time.Now()}
				return nil
			}
			return nil
		}),
		stdlib.OptionAfterConnect(func(context.Context, *pgx.Conn) error { p.connected(); return nil }),
		stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false }),
		stdlib.OptionResetSession(p.reuse))
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	db.SetConnMaxIdleTime(maxRest)
	db.SetConnMaxLifetime(maxLife)
	return db
}

// reuse decides whether a connection that was used before can be used again.
func (p *postgres) reuse(ctx context.Context, conn *pgx.Conn) error {
	state, ok := conn.PgConn().CustomData()[pgStateKey].(*pgState)
	if !ok || state.epoch != p.epoch.Load() {
		return driver.ErrBadConn
	}
	now := time.Now()
	if now.Sub(state.used) > restUntested {
		test, cancel := context.WithTimeout(ctx, min(testTimeout, p.timeout/2))
		err := conn.PgConn().Ping(test)
		silent := test.Err() != nil && ctx.Err() == nil
		cancel()
		if silent {
			// The others would have to be waited for one after the other.
			p.discard()
		}
		if err != nil {
			return driver.ErrBadConn
		}
	}
	state.used = now
	return nil
}

// discard gives up all connections at once: those that rest are not used again, and those in use end with
// what they are doing.
func (p *postgres) discard() { p.epoch.Add(1) }

// setup are the statements that begin a transaction behind a pooler.
func (p *postgres) setup(settings map[string]string) string {
	if !p.pooled {
		return ""
	}
	all := p.limits()
	maps.Copy(all, settings)
	var b strings.Builder
	for name, value := range all {
		fmt.Fprintf(&b, "SET LOCAL %s = '%s'; ", name, value)
	}
	return b.String()
}

// errSilent ends what waits for a database that does not answer in time. It takes the place of the context's
// error that it makes: nobody has cancelled anything.
var errSilent = errors.New("the database has not answered in time")

// watch is a context that ends when the database is silent for too long. It belongs to one goroutine.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	bound  time.Duration
}

// newWatch makes one that waits for the database from now on.
func newWatch(ctx context.Context, bound time.Duration) *watch {
	w := &watch{bound: bound}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(bound, func() { w.cancel(errSilent) })
	return w
}

// pause is for when the database is not waited for, resume for when it is again.
func (w *watch) pause()  { w.timer.Stop() }
func (w *watch) resume() { w.timer.Reset(w.bound) }

// end lets go of the context, and adds to an error that the silence made what made it.
func (w *watch) end(err error) error {
	w.timer.Stop()
	silent := err != nil && context.Cause(w.ctx) == errSilent
	w.cancel(nil)
	if silent {
		return fmt.Errorf("%w (%s): %v", errSilent, w.bound, err)
	}
	return err
}

// pgFailure is what an error says about the connection and the server behind it.
type pgFailure int

const (
	pgStatement pgFailure = iota // nothing: it is about the statement
	pgLost                       // this connection is gone, another one may do
	pgReadOnly                   // the server takes no writes, another one may
	pgMute                       // the server does not answer
)

func pgFailureOf(err error) pgFailure {
	if errors.Is(err, errSilent) {
		return pgMute
	}
	switch code := pgCode(err); code {
	case "":
	case "57P01", "57P02", "57P05": // the server has closed it: on an operator's word, after a crash, for its rest
		return pgLost
	case "25006":
		return pgReadOnly
	default:
		return pgStatement
	}
	var connect *pgconn.ConnectError
	if err == nil || errors.As(err, &connect) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return pgStatement
	}
	if isBrokenPipe(err) {
		return pgLost
	}
	return pgStatement
}

// failed notes what an error says about the connections, and reports whether the same is worth another try on a new
// one, provided that it has surely not been done.
func (p *postgres) failed(ctx context.Context, err error) bool {
	switch pgFailureOf(err) {
	case pgLost, pgReadOnly:
		p.discard() // the others are likely to have gone the same way, and the next try is on a new one
		return ctx.Err() == nil
	case pgMute:
		p.discard()
	}
	return false
}
