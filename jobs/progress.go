package jobs

import (
	"context"

	"berth/metadata"
)

// Units of Progress.
const (
	UnitBytes = "bytes"
	UnitItems = "items" // rows and objects that are compared
)

// Progress is how far a long run is, for who waits for it. What comes and goes meanwhile is not in
// Total, so Done may end a little below it or at it, and never goes above.
type Progress struct {
	Unit  string `json:"unit"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// Add counts what is done.
func (p *Progress) Add(n int64) { p.Done = min(p.Done+n, p.Total) }

// BytesOf begins the progress of a run that reads the bytes of all blobs of a database.
func BytesOf(ctx context.Context, db *metadata.DB) (p Progress, err error) {
	p.Unit = UnitBytes
	err = db.View(ctx, func(tx *metadata.Tx) (err error) {
		_, p.Total, err = tx.CountBlobs(ctx)
		return err
	})
	return p, err
}

// ItemsOf begins the progress of a run that looks at each blob so many times.
func ItemsOf(ctx context.Context, db *metadata.DB, times int64) (p Progress, err error) {
	p.Unit = UnitItems
	err = db.View(ctx, func(tx *metadata.Tx) error {
		blobs, _, err := tx.CountBlobs(ctx)
		p.Total = times * blobs
		return err
	})
	return p, err
}
