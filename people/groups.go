package people

import (
	"context"
	"strings"
	"unicode"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// maxGroupName bounds the name of a group, in bytes.
const maxGroupName = 255

// parseGroup checks the name of a new group. Identity providers name groups as
// they like ("CN=devs,OU=Groups", "/platform/devs"), so that nearly all is allowed.
func parseGroup(name string) error {
	if name == "" || len(name) > maxGroupName || strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return oci.Errorf(oci.CodeInvalid, "the group name %.260q is not valid: use 1 to %d printable characters, with no space at an end", name, maxGroupName)
	}
	return nil
}

// CreateGroup makes a group without members of ours. It returns INVALID or CONFLICT.
func (p *People) CreateGroup(ctx context.Context, by auth.Actor, name string) (metadata.Group, error) {
	return in(ctx, p, func(b *Batch) (metadata.Group, error) { return b.CreateGroup(ctx, by, name) })
}

// CreateGroup is People.CreateGroup.
func (b *Batch) CreateGroup(ctx context.Context, by auth.Actor, name string) (metadata.Group, error) {
	if err := parseGroup(name); err != nil {
		return metadata.Group{}, err
	}
	group, err := b.tx.CreateGroup(ctx, name)
	if err != nil {
		return group, err
	}
	return group, b.record(ctx, by, "createGroup", nil, map[string]string{"name": name})
}

// SetGroupDisabled takes the rights of a group away from all its members, or gives them
// back. It returns NOT_FOUND or DENIED. condition may be nil.
func (p *People) SetGroupDisabled(ctx context.Context, by auth.Actor, name string, disabled bool, condition func(metadata.Group) error) (metadata.Group, error) {
	return in(ctx, p, func(b *Batch) (metadata.Group, error) { return b.SetGroupDisabled(ctx, by, name, disabled, condition) })
}

// SetGroupDisabled is People.SetGroupDisabled.
func (b *Batch) SetGroupDisabled(ctx context.Context, by auth.Actor, name string, disabled bool, condition func(metadata.Group) error) (group metadata.Group, err error) {
	before, err := b.tx.LockGroup(ctx, name)
	if err != nil {
		return group, err
	}
	if err := check(condition, before); err != nil {
		return group, err
	}
	if before.Disabled && !disabled {
		if err := by.MayGive(auth.Right{What: "what a group may", Limit: auth.Everything()}); err != nil {
			return group, err
		}
	}
	if group, err = b.tx.SetGroupDisabled(ctx, name, disabled); err != nil {
		return group, err
	}
	return group, b.record(ctx, by, "updateGroup", Params{"group": name}, map[string]bool{"disabled": disabled})
}

// DeleteGroup removes a group with its memberships and grants. It returns NOT_FOUND.
// condition may be nil.
func (p *People) DeleteGroup(ctx context.Context, by auth.Actor, name string, condition func(metadata.Group) error) error {
	return do(ctx, p, func(b *Batch) error {
		before, err := b.tx.LockGroup(ctx, name)
		if err != nil {
			return err
		}
		if err := check(condition, before); err != nil {
			return err
		}
		if err := b.tx.DeleteGroup(ctx, name); err != nil {
			return err
		}
		return b.record(ctx, by, "deleteGroup", Params{"group": name}, nil)
	})
}

// PutGroupMember puts a user into a group, which gives the user what the group may. It
// returns NOT_FOUND or DENIED.
func (p *People) PutGroupMember(ctx context.Context, by auth.Actor, group, user string) error {
	return do(ctx, p, func(b *Batch) error { return b.PutGroupMember(ctx, by, group, user) })
}

// PutGroupMember is People.PutGroupMember.
func (b *Batch) PutGroupMember(ctx context.Context, by auth.Actor, group, user string) error {
	if err := by.MayGive(auth.Right{What: "a place in a group", Limit: auth.Everything()}); err != nil {
		return err
	}
	if err := b.tx.PutGroupMember(ctx, group, user); err != nil {
		return err
	}
	return b.record(ctx, by, "putGroupMember", Params{"group": group, "user": user}, nil)
}

// RemoveGroupMember takes a user out of a group. It returns NOT_FOUND, or CONFLICT for a
// member by the word of a provider.
func (p *People) RemoveGroupMember(ctx context.Context, by auth.Actor, group, user string) error {
	return do(ctx, p, func(b *Batch) error {
		if err := b.tx.RemoveGroupMember(ctx, group, user); err != nil {
			return err
		}
		return b.record(ctx, by, "removeGroupMember", Params{"group": group, "user": user}, nil)
	})
}

// Groups lists groups behind a name, in byte order, at most limit.
func (p *People) Groups(ctx context.Context, after string, limit int) ([]metadata.Group, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.Group, error) { return tx.Groups(ctx, after, limit) })
}

// Group gives a group's row. It returns NOT_FOUND.
func (p *People) Group(ctx context.Context, name string) (metadata.Group, error) {
	return view(ctx, p, func(tx *metadata.Tx) (metadata.Group, error) { return tx.Group(ctx, name) })
}

// Group is People.Group.
func (b *Batch) Group(ctx context.Context, name string) (metadata.Group, error) {
	return b.tx.Group(ctx, name)
}

// GroupMembers lists members of a group behind a name, in byte order, at most limit: ours and
// those whom a provider names. It returns NOT_FOUND for the group.
func (p *People) GroupMembers(ctx context.Context, group, after string, limit int) ([]metadata.GroupMember, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.GroupMember, error) {
		return tx.GroupMembers(ctx, group, after, limit)
	})
}

// UserGroups names the groups of a user. It returns NOT_FOUND for the user.
func (b *Batch) UserGroups(ctx context.Context, user string) ([]string, error) {
	u, err := b.tx.User(ctx, user)
	if err != nil {
		return nil, err
	}
	return b.tx.UserGroups(ctx, u.ID)
}
