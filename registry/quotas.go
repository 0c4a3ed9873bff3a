package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// Steps in which a body of unknown length is reserved, in bytes.
const (
	firstStep = 8 << 20
	lastStep  = 256 << 20
)

// chargeOf is what an upload that becomes a blob adds to what was reserved for it:
// all of it, when its team had no quota as it began.
func chargeOf(u metadata.Upload) metadata.Charge {
	return metadata.Charge{Bytes: max(0, u.Size-u.Reserved)}
}

// meter reserves what a body adds to an upload whose team has a quota: at once
// when its length is announced, else in steps, as it comes. The error, then the reader's, is a DENIED.
func (r *Registry) meter(ctx context.Context, row metadata.Upload, length int64, body io.Reader) (io.Reader, error) {
	if row.QuotaTeam == "" {
		return body, nil
	}
	m := &meteredReader{r: body, step: firstStep, left: max(0, row.Reserved-row.Size), reserved: row.Reserved}
	m.reserve = func(total int64) error {
		return r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
			return tx.ReserveUpload(ctx, row.ID, row.QuotaTeam, total)
		})
	}
	if length > m.left {
		if err := m.grow(length - m.left); err != nil {
			return nil, err
		}
	}
	return m, nil
}

type meteredReader struct {
	r        io.Reader
	left     int64 // bytes that may come until more has to be reserved
	step     int64
	reserved int64
	reserve  func(total int64) error
}

func (m *meteredReader) grow(n int64) error {
	if err := m.reserve(m.reserved + n); err != nil {
		return err
	}
	m.reserved += n
	m.left += n
	return nil
}

func (m *meteredReader) Read(p []byte) (int, error) {
	if m.left == 0 {
		// A body that ends here needs no more.
		var one [1]byte
		n, err := io.ReadFull(m.r, one[:])
		if n == 0 {
			return 0, err
		}
		for err = m.grow(m.step); errors.Is(err, oci.ErrDenied) && m.step > 1; err = m.grow(m.step) {
			m.step = max(1, m.step/8) // there may be room for what comes
		}
		if err != nil {
			return 0, err
		}
		m.step = min(2*m.step, lastStep)
		m.left--
		p[0] = one[0]
		return 1, nil
	}
	n, err := m.r.Read(p[:min(int64(len(p)), m.left)])
	m.left -= int64(n)
	return n, err
}

// overQuota ends an upload that the quota has no room for, so that it holds none.
func (r *Registry) overQuota(ctx context.Context, row metadata.Upload, err error) (metadata.Upload, *sum, error) {
	if errors.Is(err, oci.ErrDenied) {
		if derr := r.discard(ctx, row); derr != nil && !errors.Is(derr, oci.ErrBlobUploadUnknown) {
			r.o.Logger.WarnContext(ctx, "an upload over the quota is left to expire", "upload", row.ID, "error", derr)
		}
	}
	var refused *oci.Error
	if errors.As(err, &refused) {
		err = refused // without what the store made of it
	}
	return row, nil, err
}

// refuse ends an upload whose object is complete, but which the quota has no room for:
// its team had no quota as it began.
func (r *Registry) refuse(ctx context.Context, row metadata.Upload, key string) error {
	err := r.db.Update(ctx, func(tx *metadata.Tx) error {
		if _, err := tx.DeleteUpload(ctx, row.ID); err != nil {
			return err
		}
		for _, key := range append(r.leftovers(row.Session), key) {
			if err := tx.EnqueueGarbage(ctx, metadata.GarbageObject, key, tx.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, oci.ErrBlobUploadUnknown) { // somebody else has ended it
		return nil
	}
	return err
}

// Quotas lists the teams that have a quota behind a name, at most limit of them.
func (r *Registry) Quotas(ctx context.Context, after string, limit int) ([]metadata.Quota, error) {
	return view(ctx, r, func(tx *metadata.Tx) ([]metadata.Quota, error) { return tx.Quotas(ctx, after, limit) })
}

// Quota gives a team's quota. It returns NOT_FOUND.
func (r *Registry) Quota(ctx context.Context, team string) (metadata.Quota, error) {
	return view(ctx, r, func(tx *metadata.Tx) (metadata.Quota, error) { return tx.Quota(ctx, team) })
}

// SetQuota limits a team, and counts what it has when that is its first quota; when the
// counting fails, FoldQuotas repeats it. It returns NOT_FOUND, INVALID, or UNAVAILABLE when
// pushes do not let it begin to count.
func (r *Registry) SetQuota(ctx context.Context, by auth.Actor, team string, l metadata.Limits) (metadata.Quota, error) {
	asked := map[string]any{}
	for name, limit := range map[string]*int64{"bytes": l.Bytes, "repositories": l.Repositories, "tags": l.Tags} {
		if limit != nil {
			asked[name] = *limit
		}
	}
	err := r.db.Update(ctx, func(tx *metadata.Tx) error {
		if err := tx.AdoptTeam(ctx, team, by.Audit); err != nil {
			return err
		}
		if err := tx.SetQuota(ctx, team, l, by.Audit.Name); err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{Kind: metadata.QuotaSet, Actor: by.Audit, Team: team, Detail: fields(asked)})
	})
	if err != nil {
		return metadata.Quota{}, err
	}
	q, err := r.Quota(ctx, team)
	if err == nil && !q.Counted {
		if err = r.CountQuota(ctx, team); err == nil {
			q, err = r.Quota(ctx, team)
		}
	}
	return q, err
}

// DeleteQuota removes a team's quota; then nothing of it is counted. It returns NOT_FOUND.
func (r *Registry) DeleteQuota(ctx context.Context, by auth.Actor, team string) error {
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		if err := tx.AdoptTeam(ctx, team, by.Audit); err != nil {
			return err
		}
		if err := tx.DeleteQuota(ctx, team); err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{Kind: metadata.QuotaDeleted, Actor: by.Audit, Team: team})
	})
}

// quotaTeams bounds the teams that one pass looks at.
const quotaTeams = 100

// FoldQuotas brings the sums of quotas up to date, and counts what teams have
// that were given one just now. It returns how much it did; 0 means that there is nothing to do. Several may run at once.
func (r *Registry) FoldQuotas(ctx context.Context) (int, error) {
	var work []metadata.QuotaWork
	err := r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		work, err = tx.QuotaWork(ctx, quotaTeams)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("finding quotas to count: %w", err)
	}
	done := 0
	for _, w := range work {
		if !w.Counted {
			if err := r.CountQuota(ctx, w.Team); err != nil {
				return done, err
			}
			done++
			continue
		}
		var n int
		err := r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
			n, err = tx.FoldQuota(ctx, w.Team)
			return err
		})
		if err != nil {
			return done, fmt.Errorf("folding the quota of the team %s: %w", w.Team, err)
		}
		done += n
	}
	var dropped int64
	err = r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
		dropped, err = tx.DropLedger(ctx)
		return err
	})
	return done + int(dropped), err
}

// CountQuota counts what a team has that was given a quota just now. The quota
// holds from then on.
func (r *Registry) CountQuota(ctx context.Context, team string) error {
	err := r.db.Update(ctx, func(tx *metadata.Tx) error { return tx.CountQuota(ctx, team) })
	if err != nil {
		return fmt.Errorf("counting what the team %s uses: %w", team, err)
	}
	return nil
}
