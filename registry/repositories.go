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
