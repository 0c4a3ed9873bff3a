package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"berth/metadata"
	"berth/oci"
)

// denial is a metadata.Denial, ready to be compared.
type denial struct {
	name, reason string
	principal    string // pattern
	repository   string // pattern
	network      netip.Prefix
	somewhere    bool // network counts
	actions      Actions
}

// meets reports whether the denial is about a principal, from where it asks,
// and a repository.
func (n *denial) meets(p Principal, repository string) bool {
	return oci.Match(n.repository, repository) && n.meetsPrincipal(p)
}

// meetsPrincipal is meets for any repository. One whose address is not known
// might be in the network, and is refused.
func (n *denial) meetsPrincipal(p Principal) bool {
	if !oci.Match(n.principal, p.String()) {
		return false
	}
	if !n.somewhere {
		return true
	}
	from, ok := parseAddress(p.RemoteAddr)
	return !ok || n.network.Contains(from)
}

// denials remembers the denials of the database. All decisions need them, they
// are few, and they change seldom. Safe for concurrent use.
type denials struct {
	db    *metadata.DB
	clock func() time.Time

	current atomic.Pointer[denialList]
	turn    chan struct{} // of one place: one reads, the others wait for it
}

func newDenials(db *metadata.DB, clock func() time.Time) *denials {
	return &denials{db: db, clock: clock, turn: make(chan struct{}, 1)}
}

// denialList is the denials as they were at a version, read at a time.
type denialList struct {
	all     []denial
	version int64
	read    time.Time
}

// denialsFor is how long denials are taken as they are where nothing else is read
// from the database.
const denialsFor = 2 * time.Second

// recent gives the denials as they were at most two seconds ago.
func (d *denials) recent(ctx context.Context) ([]denial, error) {
	return d.get(ctx, d.fresh)
}

func (d *denials) fresh(l *denialList) bool {
	age := d.clock().Sub(l.read)
	return age >= 0 && age < denialsFor
}

// since gives the denials of a version that the database named just now, or of a
// later one. (A version that went back is that of a database that was restored.)
func (d *denials) since(ctx context.Context, version int64) ([]denial, error) {
	return d.get(ctx, func(l *denialList) bool { return l.version == version || l.version > version && d.fresh(l) })
}

func (d *denials) get(ctx context.Context, good func(*denialList) bool) ([]denial, error) {
	if l := d.current.Load(); l != nil && good(l) {
		return l.all, nil
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l := d.current.Load(); l != nil && good(l) {
		return l.all, nil // somebody else has read them meanwhile
	}
	read := d.clock()
	var (
		rows    []metadata.Denial
		version int64
	)
	err := d.db.View(ctx, func(tx *metadata.Tx) (err error) {
		rows, version, err = tx.AllDenials(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the denials: %w", err)
	}
	l := &denialList{version: version, read: read}
	for _, row := range rows {
		n, err := denialOf(row)
		if err != nil {
			return nil, err
		}
		l.all = append(l.all, n)
	}
	d.current.Store(l)
	return l.all, nil
}

// denialOf prepares a row. One that cannot be understood is an error: whom it
// would refuse cannot be said.
func denialOf(row metadata.Denial) (denial, error) {
	n := denial{name: row.Name, reason: row.Reason, principal: row.Principal, repository: row.Repository}
	actions, err := ParseActions(row.Actions)
	if err != nil {
		return n, fmt.Errorf("the denial %s in the database: %w", row.Name, errors.New(err.Error()))
	}
	n.actions = actions
	if row.CIDR != "" {
		n.somewhere = true
		if n.network, err = netip.ParsePrefix(row.CIDR); err != nil {
			return n, fmt.Errorf("the denial %s in the database: %w", row.Name, err)
		}
	}
	return n, nil
}
