package registry

import (
	"context"
	"errors"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// pushTo is the one way in which a repository comes to be, whatever door it is asked for
// through: a push, a mount, a request to make one. Its team's quota has to allow it, its
// visibility is its team's or else the instance's, a team that only a provider knows gets its row, and the
// audit log has a line. See [metadata.Tx.PushTo] for the charge and the errors; fn gets the repository's id.
func (r *Registry) pushTo(ctx context.Context, tx *metadata.Tx, by auth.Actor, repo string, c metadata.Charge, fn func(id int64) error) error {
	created, err := tx.PushTo(ctx, repo, r.o.DefaultVisibility, by.Audit.Name, c, fn)
	if err != nil || !created {
		return err
	}
	if err := tx.AdoptTeam(ctx, oci.Team(repo), by.Audit); err != nil {
		return err
	}
	return tx.Record(ctx, metadata.Event{Kind: metadata.RepositoryCreated, Actor: by.Audit, Repository: repo})
}

// CreateRepository makes an empty repository, or finds the one that is there; created
// says which. It returns DENIED when the team's quota does not allow another one.
func (r *Registry) CreateRepository(ctx context.Context, by auth.Actor, repo string) (found metadata.Repository, created bool, err error) {
	err = r.db.Update(ctx, func(tx *metadata.Tx) error {
		_, err := tx.Repository(ctx, repo)
		if created = errors.Is(err, oci.ErrNameUnknown); err != nil && !created {
			return err
		}
		return r.pushTo(ctx, tx, by, repo, metadata.Charge{}, func(int64) (err error) {
			found, err = tx.Repository(ctx, repo)
			return err
		})
	})
	return found, created, err
}

// DeleteRepository removes a repository with all that it holds and all of it that could be
// restored; the history of its tags stays. check, when it is given, sees the repository
// before, and its error stops the deletion. It returns NAME_UNKNOWN, and oci.ErrTagImmutable when a tag is sealed.
func (r *Registry) DeleteRepository(ctx context.Context, by auth.Actor, repo string, check func(metadata.Repository) error) error {
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		before, err := tx.LockRepository(ctx, repo)
		if err != nil {
			return err
		}
		if check != nil {
			if err := check(before); err != nil {
				return err
			}
		}
		if err := tx.DeleteRepository(ctx, repo, by.Audit); err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{Kind: metadata.RepositoryDeleted, Actor: by.Audit, Repository: repo})
	})
}

// RepositoryNames lists the names of repositories, in byte order.
func (r *Registry) RepositoryNames(ctx context.Context, f metadata.RepositoryFilter) (names []string, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		names, err = tx.RepositoryNames(ctx, f)
		return err
	})
	return names, err
}

// Repository gives a repository's row. It returns NAME_UNKNOWN.
func (r *Registry) Repository(ctx context.Context, name string) (metadata.Repository, error) {
	return view(ctx, r, func(tx *metadata.Tx) (metadata.Repository, error) { return tx.Repository(ctx, name) })
}

// RepositoryStats gives a repository's row and counts what it holds, which reads all its
// rows. It returns NAME_UNKNOWN.
func (r *Registry) RepositoryStats(ctx context.Context, name string) (found metadata.Repository, stats metadata.RepositoryStats, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		if found, err = tx.Repository(ctx, name); err != nil {
			return err
		}
		stats, err = tx.RepositoryStats(ctx, found.ID)
		return err
	})
	return found, stats, err
}

// Repositories lists repositories in the order of their names (bytes).
func (r *Registry) Repositories(ctx context.Context, f metadata.RepositoryFilter) ([]metadata.Repository, error) {
	return view(ctx, r, func(tx *metadata.Tx) ([]metadata.Repository, error) { return tx.Repositories(ctx, f) })
}

// RepositoryChange says what to change of a repository; nil leaves a field as it is.
type RepositoryChange struct {
	Visibility *string // public, internal or private

	// If sees the repository before; its error stops the change. nil sets no condition.
	If func(before metadata.Repository) error
}

// UpdateRepository changes who may pull from a repository. It returns NAME_UNKNOWN, and DENIED
// when the credential in use may not open it to so many.
func (r *Registry) UpdateRepository(ctx context.Context, by auth.Actor, repo string, c RepositoryChange) (changed metadata.Repository, err error) {
	e := metadata.Event{Kind: metadata.RepositoryChanged, Actor: by.Audit, Repository: repo}
	if c.Visibility != nil {
		e.Detail = fields(map[string]any{"visibility": *c.Visibility})
	}
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if changed, err = tx.LockRepository(ctx, repo); err != nil {
			return err
		}
		if c.If != nil {
			if err := c.If(changed); err != nil {
				return err
			}
		}
		if c.Visibility != nil {
			if err := by.MayOpen(repo, changed.Visibility, *c.Visibility); err != nil {
				return err
			}
			changed.Visibility = *c.Visibility
			if err := tx.SetVisibility(ctx, repo, *c.Visibility); err != nil {
				return err
			}
		}
		return tx.Record(ctx, e)
	})
	return changed, err
}
