package admin

import (
	"context"
	"fmt"
	"time"

	"berth/metadata"
	"berth/oci"
)

// lock makes changes of one thing wait for each other until their transactions
// end, so that what If-Match was compared with is what is changed: Postgres
// runs transactions at READ COMMITTED, where a row that was read may change
// before it is written. It is a lease that is taken and given back within the
// transaction: the second one waits at the first one's row, and nobody else
// ever sees it.
func lock(ctx context.Context, tx *metadata.Tx, kind, name string) error {
	lease, holder := "change "+kind+" "+name, "server/admin"
	ok, err := tx.AcquireLease(ctx, lease, holder, time.Minute)
	if err == nil && !ok {
		err = fmt.Errorf("the lease %q has another holder", lease)
	}
	if err != nil {
		return err
	}
	return tx.ReleaseLease(ctx, lease, holder)
}

// lockUser reads a user that is about to change.
func lockUser(ctx context.Context, tx *metadata.Tx, name string) (metadata.User, error) {
	if err := lock(ctx, tx, "user", name); err != nil {
		return metadata.User{}, err
	}
	return tx.User(ctx, name)
}

// lockTeam reads a team that is about to change.
func lockTeam(ctx context.Context, tx *metadata.Tx, name string) (metadata.Team, error) {
	if err := lock(ctx, tx, "team", name); err != nil {
		return metadata.Team{}, err
	}
	return tx.Team(ctx, name)
}

// lockRepository reads a repository that is about to change.
func lockRepository(ctx context.Context, tx *metadata.Tx, name string) (metadata.Repository, error) {
	if err := lock(ctx, tx, "repository", name); err != nil {
		return metadata.Repository{}, err
	}
	return tx.Repository(ctx, name)
}

// oneToken finds a token of a user or a team by its name, or returns NOT_FOUND.
func oneToken(ctx context.Context, tx *metadata.Tx, user, team, name string) (metadata.Token, error) {
	const size = 500
	for after := ""; ; {
		page, err := tx.Tokens(ctx, user, team, after, size)
		if err != nil {
			return metadata.Token{}, err
		}
		for _, t := range page {
			if t.Name == name {
				return t, nil
			}
		}
		if len(page) < size {
			return metadata.Token{}, oci.Errorf(oci.CodeNotFound, "%s%s has no token named %s", user, team, name)
		}
		after = page[len(page)-1].Name
	}
}
