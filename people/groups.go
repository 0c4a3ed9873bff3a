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
	group, err := b.Tx.CreateGroup(ctx, name)
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
	before, err := b.LockGroup(ctx, name)
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
	if group, err = b.Tx.SetGroupDisabled(ctx, name, disabled); err != nil {
		return group, err
	}
	return group, b.record(ctx, by, "updateGroup", Params{"group": name}, map[string]bool{"disabled": disabled})
}

// DeleteGroup removes a group with its memberships and grants. It returns NOT_FOUND.
// condition may be nil.
func (p *People) DeleteGroup(ctx context.Context, by auth.Actor, name string, condition func(metadata.Group) error) error {
	return do(ctx, p, func(b *Batch) error {
		before, err := b.LockGroup(ctx, name)
		if err != nil {
			return err
		}
		if err := check(condition, before); err != nil {
			return err
		}
		if err := b.Tx.DeleteGroup(ctx, name); err != nil {
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
	if err := b.Tx.PutGroupMember(ctx, group, user); err != nil {
		return err
	}
	return b.record(ctx, by, "putGroupMember", Params{"group": group, "user": user}, nil)
}

// RemoveGroupMember takes a user out of a group. It returns NOT_FOUND, or CONFLICT for a
// member by the word of a provider.
func (p *People) RemoveGroupMember(ctx context.Context, by auth.Actor, group, user string) error {
	return do(ctx, p, func(b *Batch) error {
		if err := b.Tx.RemoveGroupMember(ctx, group, user); err != nil {
			return err
		}
		return b.record(ctx, by, "removeGroupMember", Params{"group": group, "user": user}, nil)
	})
}
