package metadata

import "context"

// LockUser reads a user that the transaction is about to change: until it
// ends, nobody else changes the row, so that a condition such as If-Match
// holds when the change is made. It returns NOT_FOUND.
func (tx *Tx) LockUser(ctx context.Context, name string) (User, error) {
	if err := tx.lockRow(ctx, "users", name); err != nil {
		return User{}, err
	}
	return tx.User(ctx, name)
}

// LockTeam is LockUser for a team.
func (tx *Tx) LockTeam(ctx context.Context, name string) (Team, error) {
	if err := tx.lockRow(ctx, "teams", name); err != nil {
		return Team{}, err
	}
	return tx.Team(ctx, name)
}

// LockGroup is LockUser for a group.
func (tx *Tx) LockGroup(ctx context.Context, name string) (Group, error) {
	if err := tx.lockRow(ctx, "groups", name); err != nil {
		return Group{}, err
	}
	return tx.Group(ctx, name)
}

// LockRepository is LockUser for a repository. It returns NAME_UNKNOWN.
func (tx *Tx) LockRepository(ctx context.Context, name string) (Repository, error) {
	if err := tx.lockRow(ctx, "repositories", name); err != nil {
		return Repository{}, err
	}
	return tx.Repository(ctx, name)
}

// lockRow waits for the row of a name; one that is not there is not waited for.
func (tx *Tx) lockRow(ctx context.Context, table, name string) error {
	_, err := list(ctx, tx, scanString, `SELECT name FROM `+table+` WHERE name = $1`+tx.dialect().ForUpdate(), name)
	return err
}
