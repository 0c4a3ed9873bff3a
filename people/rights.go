package people

import (
	"context"
	"errors"

	"berth/metadata"
	"berth/oci"
)

// Right is a grant with whom it is to: a user, or a group.
type Right struct {
	metadata.Grant
	User  *metadata.User
	Group *metadata.Group
}

// Rights lists what is granted to a user, and to the groups of the user, or to a group, as
// it is at one moment. It returns NOT_FOUND for the grantee.
func (p *People) Rights(ctx context.Context, to metadata.Grantee) (rights []Right, err error) {
	err = p.o.DB.Snapshot(ctx, func(tx *metadata.Tx) error {
		rights = nil
		if to.Group != "" {
			return groupRights(ctx, tx, to.Group, &rights)
		}
		u, err := tx.User(ctx, to.User)
		if err != nil {
			return err
		}
		grants, err := tx.Grants(ctx, metadata.GrantFilter{Grantee: to, Limit: metadata.MaxGrants})
		if err != nil {
			return err
		}
		for _, g := range grants {
			rights = append(rights, Right{Grant: g, User: &u})
		}
		groups, err := tx.UserGroups(ctx, u.ID)
		if err != nil {
			return err
		}
		for _, name := range groups {
			// A group that only the user's provider knows has no row and no grants.
			if err := groupRights(ctx, tx, name, &rights); err != nil && !errors.Is(err, oci.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	return rights, err
}

func groupRights(ctx context.Context, tx *metadata.Tx, name string, rights *[]Right) error {
	g, err := tx.Group(ctx, name)
	if err != nil {
		return err
	}
	grants, err := tx.Grants(ctx, metadata.GrantFilter{Grantee: metadata.Grantee{Group: name}, Limit: metadata.MaxGrants})
	if err != nil {
		return err
	}
	for _, one := range grants {
		*rights = append(*rights, Right{Grant: one, Group: &g})
	}
	return nil
}
