package admin

import (
	"context"

	"berth/metadata"
	"berth/oci"
)

func lockUser(ctx context.Context, tx *metadata.Tx, name string) (metadata.User, error) {
	return tx.User(ctx, name)
}
func lockTeam(ctx context.Context, tx *metadata.Tx, name string) (metadata.Team, error) {
	return tx.Team(ctx, name)
}
func lockRepository(ctx context.Context, tx *metadata.Tx, name string) (metadata.Repository, error) {
	return tx.Repository(ctx, name)
}
func oneToken(ctx context.Context, tx *metadata.Tx, user, team, name string) (metadata.Token, error) {
	list, err := tx.Tokens(ctx, user, team, "", 1000)
	if err != nil {
		return metadata.Token{}, err
	}
	for _, t := range list {
		if t.Name == name {
			return t, nil
		}
	}
	return metadata.Token{}, oci.Errorf(oci.CodeNotFound, "%s%s has no token named %s", user, team, name)
}
