package registry

import (
	"context"

	"berth/metadata"
)

// Usage is who takes how much space.
type Usage struct {
	Stored       metadata.StoredBytes
	Teams        []metadata.Usage
	Repositories []metadata.Usage
}

// TeamsUsage is Usage without the repositories.
func (r *Registry) TeamsUsage(ctx context.Context) (u Usage, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		if u.Stored, err = tx.StoredBytes(ctx); err != nil {
			return err
		}
		u.Teams, err = tx.TeamUsage(ctx)
		return err
	})
	if u.Teams == nil {
		u.Teams = []metadata.Usage{}
	}
	return u, err
}

// Usage measures teams and repositories. It reads all links, in one snapshot.
func (r *Registry) Usage(ctx context.Context) (u Usage, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		if u.Stored, err = tx.StoredBytes(ctx); err != nil {
			return err
		}
		if u.Teams, err = tx.TeamUsage(ctx); err != nil {
			return err
		}
		u.Repositories, err = tx.RepositoryUsage(ctx)
		return err
	})
	return u, err
}

// UsageOfTeam measures the repositories of a team behind a name, at most limit of them.
func (r *Registry) UsageOfTeam(ctx context.Context, team, after string, limit int) ([]metadata.Usage, error) {
	return snapshot(ctx, r, func(tx *metadata.Tx) ([]metadata.Usage, error) { return tx.UsageOfTeam(ctx, team, after, limit) })
}

// UsageOfRepository measures a repository. It returns NAME_UNKNOWN.
func (r *Registry) UsageOfRepository(ctx context.Context, repo string) (metadata.Usage, error) {
	return snapshot(ctx, r, func(tx *metadata.Tx) (metadata.Usage, error) { return tx.UsageOfRepository(ctx, repo) })
}
