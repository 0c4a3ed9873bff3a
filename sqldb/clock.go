package sqldb

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"berth/oci"
)

// serverClock tells the time of the database, which all replicas share: leases, ends of tokens and
// sessions, and ages of uploads are compared with it, so a replica whose own clock is off does no harm. Between
// readings it goes on by this machine's monotonic clock, so setting the machine's clock does not move it.
type serverClock struct {
	local func() time.Time
	log   *slog.Logger
	last  atomic.Pointer[clockReading]
}

type clockReading struct {
	at     time.Time // of the local clock
	server time.Time // at the same moment
	skew   time.Duration
}

// Bounds of reading the clock.
const (
	clockEvery = 15 * time.Second
	// MaxClockSkew is how far this machine's clock may be from the database's before [DB.ClockOff] says so.
	MaxClockSkew = 2 * time.Second
)

func (c *serverClock) now() time.Time {
	r := c.last.Load()
	if r == nil {
		return c.local()
	}
	return r.server.Add(c.local().Sub(r.at))
}

// read compares the clocks once. ask is answered at some moment of its round trip; that moment is taken for its middle.
func (c *serverClock) read(ctx context.Context, ask func(context.Context) (time.Time, error)) error {
	before := c.local()
	server, err := ask(ctx)
	if err != nil {
		return err
	}
	unsure := c.local().Sub(before) / 2
	at := before.Add(unsure)
	r := &clockReading{at: at, server: server, skew: at.Round(0).Sub(server)} // Round drops the monotonic reading
	was := c.last.Load()
	if was != nil {
		if d := c.now().Sub(server.Add(c.local().Sub(at))); d.Abs() <= unsure+time.Millisecond {
			r.at, r.server = was.at, was.server // as good as what is there, which then does not jump
		}
	}
	c.last.Store(r)
	switch off, wasOff := r.skew.Abs() > MaxClockSkew, was != nil && was.skew.Abs() > MaxClockSkew; {
	case off && !wasOff:
		c.log.Warn("the clock of this machine is off: times are taken from the database, but certificates and cloud credentials may be refused. "+
			"Look at its time synchronisation (NTP)", "ahead_of_database", r.skew.String())
	case wasOff && !off:
		c.log.Info("the clock of this machine agrees with the database's again", "ahead_of_database", r.skew.String())
	}
	return nil
}

// run reads the clock until the context ends.
func (c *serverClock) run(ctx context.Context, ask func(context.Context) (time.Time, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(clockEvery):
		}
		bounded, cancel := context.WithTimeout(ctx, testTimeout)
		if err := c.read(bounded, ask); err != nil {
			c.log.Debug("reading the database's clock", "error", err)
		}
		cancel()
	}
}

// Now is the database's time. On SQLite, which has none of its own, it is this machine's; so it is
// when Options.Clock says what the time is.
func (db *DB) Now() time.Time { return db.clock() }

// ClockSkew is how far this machine's clock is ahead of the database's (behind when negative), as
// last measured; 0 on SQLite.
func (db *DB) ClockSkew() time.Duration {
	if db.server == nil {
		return 0
	}
	if r := db.server.last.Load(); r != nil {
		return r.skew
	}
	return 0
}

// ClockOff says how far the clock of this machine is from the database's when that is more than [MaxClockSkew].
func (db *DB) ClockOff(context.Context) error {
	skew := db.ClockSkew()
	if skew.Abs() <= MaxClockSkew {
		return nil
	}
	where := "ahead of"
	if skew < 0 {
		where = "behind"
	}
	return oci.Errorf(oci.CodeUnavailable, "the clock of this server is %s %s the database's", skew.Abs().Round(time.Millisecond), where).
		WithCause(fmt.Errorf("look at the time synchronisation (NTP) of this machine"))
}
