package metadata

import "context"

// reviewUntagged makes the collector look at all untagged manifests again, for
// a policy has changed.
func (tx *Tx) reviewUntagged(ctx context.Context) error {
	_, err := tx.exec(ctx, `UPDATE retention_state SET review_after = 0 WHERE id = 1`)
	return err
}
