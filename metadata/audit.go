package metadata

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// Actor is who changes something, as the history of tags and the audit log show
// it. Only Name is required: what acts for nobody (a retention rule, a job) has
// a name and no more.
type Actor struct {
	Name      string            // as auth.Principal.String gives it
	Kind      string            // user, robot, machine, anonymous; "" for the registry itself
	Claims    map[string]string // provenance: what the identity provider said; never a secret
	Address   string            // where the request came from, without port
	RequestID string
	UserAgent string
	Host      string // that the client spoke to, with a port that is not the scheme's own
}

// claims is the JSON of the actor's claims, or "".
func (a Actor) claims() string { return jsonObject(a.Claims) }

// jsonObject gives a map as JSON; an empty one is "".
func jsonObject[V any](m map[string]V) string {
	if len(m) == 0 {
		return ""
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return `{"error":"this could not be written as JSON"}`
	}
	return string(raw)
}

// The outcomes of what the audit log tells.
const (
	AuditOK      = "ok"      // it was done
	AuditRefused = "refused" // it is not allowed to who asked
	AuditFailed  = "failed"  // nobody knows who asked: a sign-in failed
)

// AuditEvent is an [Event] as the audit log tells it.
type AuditEvent struct {
	At         time.Time
	ID         int64  // tells apart what happened in the same microsecond
	Action     string // the event's Kind
	Outcome    string // AuditOK, AuditRefused or AuditFailed
	Actor      Actor
	Team       string
	Repository string
	Reference  string
	Digest     digest.Digest
	Detail     map[string]any // with media_type, previous and tags of the event
	Count      int64
}

// Key is the place of the event in the log: 32 hexadecimal digits that sort by
// time. A page goes on from one.
func (e AuditEvent) Key() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(micros(e.At)))
	binary.BigEndian.PutUint64(b[8:], uint64(e.ID))
	return hex.EncodeToString(b[:])
}

// parseAuditKey reads AuditEvent.Key.
func parseAuditKey(key string) (at, id int64, err error) {
	raw, err := hex.DecodeString(key)
	if err != nil || len(raw) != 16 {
		return 0, 0, oci.Errorf(oci.CodeInvalid, "the key %.40q is not the \"next\" of a page of the audit log", key)
	}
	at, id = int64(binary.BigEndian.Uint64(raw[:8])), int64(binary.BigEndian.Uint64(raw[8:]))
	if at < 0 || id < 0 {
		return 0, 0, oci.Errorf(oci.CodeInvalid, "the key %.40q is not the \"next\" of a page of the audit log", key)
	}
	return at, id, nil
}

// Bounds of what an event holds, in bytes: much of it is what strangers send.
const (
	maxAuditText   = 512
	maxAuditDetail = 16 << 10
)

// auditText makes a text fit for a column: valid UTF-8 without NUL, and short.
func auditText(s string) string {
	if len(s) > maxAuditText {
		s = s[:maxAuditText]
	}
	if oci.IsText(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func auditDetail[V any](m map[string]V) string {
	text := jsonObject(m)
	if len(text) > maxAuditDetail {
		return fmt.Sprintf(`{"truncated":%d}`, len(text))
	}
	return text
}

// auditColumns are those of a row, in the order of insertAudit and scanAudit.
const auditColumns = `at, id, action, outcome, principal, kind, address, request_id, user_agent, claims, team, repository, reference, digest, detail, count`

const auditColumnCount = 16

// AuditFilter selects events. The zero value of a field selects all.
type AuditFilter struct {
	Principal  string
	Team       string
	Repository string
	Action     string
	Outcome    string    // ok, refused or failed
	Since      time.Time // inclusive
	Until      time.Time // exclusive
	Before     string    // the key of the last event of the page before
	Limit      int
}

// AuditEvents lists events, newest first. One filter is served by an index; of
// several, one is, and the others are looked at row by row. The error is an
// INVALID for a key of another form.
func (tx *Tx) AuditEvents(ctx context.Context, f AuditFilter) ([]AuditEvent, error) {
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	since, until := int64(0), int64(math.MaxInt64)
	if !f.Since.IsZero() {
		since = micros(f.Since)
	}
	if !f.Until.IsZero() {
		until = micros(f.Until)
	}
	where := []string{"at >= " + arg(since), "at < " + arg(until)}
	// The second condition of each is that of the partial index, in its words:
	// SQLite takes the index only then.
	if f.Principal != "" {
		where = append(where, "principal = "+arg(f.Principal))
	}
	if f.Team != "" {
		where = append(where, "team = "+arg(f.Team), "team <> ''")
	}
	if f.Repository != "" {
		where = append(where, "repository = "+arg(f.Repository), "repository <> ''")
	}
	if f.Action != "" {
		where = append(where, "action = "+arg(f.Action))
		if f.Action != string(ManifestPushed) { // by far the most frequent one: the index leaves it out
			where = append(where, "action <> '"+string(ManifestPushed)+"'")
		}
	}
	if f.Outcome != "" {
		where = append(where, "outcome = "+arg(f.Outcome))
		if f.Outcome != AuditOK {
			where = append(where, "outcome <> '"+AuditOK+"'")
		}
	}
	if f.Before != "" {
		at, id, err := parseAuditKey(f.Before)
		if err != nil {
			return nil, err
		}
		where = append(where, "(at, id) < ("+arg(at)+", "+arg(id)+")")
	}
	return list(ctx, tx, scanAudit, `
		SELECT `+auditColumns+` FROM audit_events
		 WHERE `+strings.Join(where, " AND ")+`
		 ORDER BY at DESC, id DESC LIMIT `+arg(f.Limit), args...)
}

func scanAudit(rows *sql.Rows) (AuditEvent, error) {
	var e AuditEvent
	var at int64
	var claims, detail string
	err := rows.Scan(&at, &e.ID, &e.Action, &e.Outcome, &e.Actor.Name, &e.Actor.Kind, &e.Actor.Address, &e.Actor.RequestID, &e.Actor.UserAgent,
		&claims, &e.Team, &e.Repository, &e.Reference, &e.Digest, &detail, &e.Count)
	if err != nil {
		return e, err
	}
	e.At = fromMicros(at)
	e.Actor.Claims = readClaims(claims)
	if detail != "" {
		// A row that somebody wrote by hand is shown without what cannot be read.
		_ = json.Unmarshal([]byte(detail), &e.Detail)
	}
	return e, nil
}

// readClaims reads the JSON of claims. Anything else gives no claims.
func readClaims(text string) map[string]string {
	if text == "" {
		return nil
	}
	var claims map[string]string
	if json.Unmarshal([]byte(text), &claims) != nil {
		return nil
	}
	return claims
}

// PruneAudit deletes up to limit of the oldest events from before the cutoff, and
// gives the time of the youngest one deleted, from which the next call goes on: a
// dead index entry is then not read twice. done says that nothing older is left. It
// costs what it deletes, however long the log is.
func (tx *Tx) PruneAudit(ctx context.Context, from, cutoff time.Time, limit int) (deleted int64, next time.Time, done bool, err error) {
	times, err := list(ctx, tx, scanID, `
		SELECT at FROM audit_events WHERE at >= $1 AND at < $2 ORDER BY at, id LIMIT $3`, micros(from), micros(cutoff), limit)
	if err != nil || len(times) == 0 {
		return 0, from, err == nil, err
	}
	last := times[len(times)-1]
	deleted, err = tx.exec(ctx, `DELETE FROM audit_events WHERE at >= $1 AND at <= $2`, micros(from), last)
	return deleted, fromMicros(last), len(times) < limit, err
}
