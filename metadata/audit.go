package metadata

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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

// AuditPush is the action of a pushed manifest. It is by far the most frequent
// one, and the index of actions leaves it out.
const AuditPush = "pushManifest"

// AuditEvent is a line of the audit log. It says what was done, or was refused, to
// whom and how. It never holds a secret.
type AuditEvent struct {
	At         time.Time // the zero value is the time of the transaction
	ID         int64     // tells apart what happened in the same microsecond; InsertAudit makes it
	Action     string    // the operation id of the management API, or pushManifest, moveTag, deleteManifest, pull, signIn ...
	Outcome    string    // "" is AuditOK
	Actor      Actor
	Team       string // "" is the first part of Repository
	Repository string
	Reference  string // a tag, or what else the action is about: the name of a user, a token ...
	Digest     digest.Digest
	Detail     map[string]any // becomes a JSON object
	Count      int64          // how often it happened; 0 is 1
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
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
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

// auditColumns are those of a row, in the order of InsertAudit and scanAudit.
const auditColumns = `at, id, action, outcome, principal, kind, address, request_id, user_agent, claims, team, repository, reference, digest, detail, count`

const auditColumnCount = 16

// maxAuditRows keeps the parameters of one statement below both engines' limits.
const maxAuditRows = 128

// InsertAudit writes events to the audit log: one statement for up to 128 of
// them. In the transaction of a change, the change and its record are there both or
// neither. Texts are cut at 512 bytes, and details at 16 KiB.
func (tx *Tx) InsertAudit(ctx context.Context, events ...AuditEvent) error {
	for len(events) > 0 {
		n := maxAuditRows // a power of two at a time, so that there are few different texts to prepare
		for n > len(events) {
			n /= 2
		}
		if err := tx.insertAudit(ctx, events[:n]); err != nil {
			return fmt.Errorf("writing the audit log: %w", err)
		}
		events = events[n:]
	}
	return nil
}

func (tx *Tx) insertAudit(ctx context.Context, events []AuditEvent) error {
	var b strings.Builder
	b.WriteString(`INSERT INTO audit_events (` + auditColumns + `) VALUES `)
	args := make([]any, 0, len(events)*auditColumnCount)
	for i, e := range events {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for c := range auditColumnCount {
			if c > 0 {
				b.WriteString(", ")
			}
			b.WriteString("$" + strconv.Itoa(len(args)+c+1))
		}
		b.WriteByte(')')
		at := tx.now
		if !e.At.IsZero() {
			at = e.At
		}
		outcome := e.Outcome
		if outcome == "" {
			outcome = AuditOK
		}
		team := e.Team
		if team == "" && e.Repository != "" {
			team = oci.Team(e.Repository)
		}
		args = append(args, micros(at), rand.Int64(), auditText(e.Action), outcome, auditText(e.Actor.Name), auditText(e.Actor.Kind),
			auditText(e.Actor.Address), auditText(e.Actor.RequestID), auditText(e.Actor.UserAgent), auditDetail(e.Actor.Claims),
			auditText(team), auditText(e.Repository), auditText(e.Reference), auditText(string(e.Digest)), auditDetail(e.Detail), max(1, e.Count))
	}
	_, err := tx.exec(ctx, b.String(), args...)
	return err
}

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
// INVALID for a key that is none.
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
		if f.Action != AuditPush {
			where = append(where, "action <> '"+AuditPush+"'")
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

// readClaims reads the JSON of claims; what is none is no claims.
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
