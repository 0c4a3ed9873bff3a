package metadata

import (
	"context"
	"database/sql"
	"time"

	"berth/oci"
)

// Group is a set of users that rights can be granted to. Its members are those
// put in here, and the users whose provider names a group of the same name.
type Group struct {
	ID        int64
	Name      string
	Disabled  bool // then its grants give nothing
	CreatedAt time.Time
	UpdatedAt time.Time
}

const groupColumns = `id, name, disabled, created_at, updated_at`

func scanGroup(scan func(...any) error) (Group, error) {
	var g Group
	var created, updated int64
	err := scan(&g.ID, &g.Name, &g.Disabled, &created, &updated)
	g.CreatedAt, g.UpdatedAt = fromMicros(created), fromMicros(updated)
	return g, err
}

func errGroupUnknown(name string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "there is no group %s", name)
}

// CreateGroup makes a group, or returns CONFLICT when the name is taken.
func (tx *Tx) CreateGroup(ctx context.Context, name string) (Group, error) {
	g, err := scanGroup(tx.row(ctx, `
		INSERT INTO groups (name, created_at, updated_at) VALUES ($1, $2, $2)
		ON CONFLICT (name) DO NOTHING
		RETURNING `+groupColumns, name, micros(tx.now)).Scan)
	return g, notFound(err, oci.Errorf(oci.CodeConflict, "the group %s exists already", name))
}

// Group finds a group, or returns NOT_FOUND.
func (tx *Tx) Group(ctx context.Context, name string) (Group, error) {
	g, err := scanGroup(tx.row(ctx, `SELECT `+groupColumns+` FROM groups WHERE name = $1`, name).Scan)
	return g, notFound(err, errGroupUnknown(name))
}

// Groups lists groups behind a name, in byte order.
func (tx *Tx) Groups(ctx context.Context, after string, limit int) ([]Group, error) {
	return list(ctx, tx, func(rows *sql.Rows) (Group, error) { return scanGroup(rows.Scan) },
		`SELECT `+groupColumns+` FROM groups WHERE name > $1 ORDER BY name LIMIT $2`, after, limit)
}

// SetGroupDisabled takes the rights of a group away from all its members, or
// gives them back. It returns NOT_FOUND.
func (tx *Tx) SetGroupDisabled(ctx context.Context, name string, disabled bool) (Group, error) {
	g, err := scanGroup(tx.row(ctx, `
		UPDATE groups SET disabled = $2, updated_at = $3 WHERE name = $1 RETURNING `+groupColumns,
		name, disabled, micros(tx.now)).Scan)
	return g, notFound(err, errGroupUnknown(name))
}

// DeleteGroup removes a group with its memberships and grants. It returns NOT_FOUND.
func (tx *Tx) DeleteGroup(ctx context.Context, name string) error {
	n, err := tx.exec(ctx, `DELETE FROM groups WHERE name = $1`, name)
	if err == nil && n == 0 {
		return errGroupUnknown(name)
	}
	return err
}

// GroupMember is a user in a group.
type GroupMember struct {
	User     string
	Provider bool // by the word of the user's provider; such a member can only be removed there
}

// GroupMembers lists the members of a group behind a user's name, in byte order.
// It returns NOT_FOUND.
func (tx *Tx) GroupMembers(ctx context.Context, group, after string, limit int) ([]GroupMember, error) {
	g, err := tx.Group(ctx, group)
	if err != nil {
		return nil, err
	}
	return list(ctx, tx, func(rows *sql.Rows) (m GroupMember, err error) { return m, rows.Scan(&m.User, &m.Provider) }, `
		SELECT u.name, NOT EXISTS (SELECT 1 FROM group_members m WHERE m.group_id = $1 AND m.user_id = u.id)
		  FROM (SELECT m.user_id FROM group_members m WHERE m.group_id = $1
		         UNION
		        SELECT p.user_id FROM provider_groups p WHERE p.name = $2) AS i
		  JOIN users u ON u.id = i.user_id
		 WHERE u.name > $3 ORDER BY u.name LIMIT $4`, g.ID, g.Name, after, limit)
}

// PutGroupMember puts a user into a group; one who is in it stays. It returns
// NOT_FOUND for the group or the user.
func (tx *Tx) PutGroupMember(ctx context.Context, group, user string) error {
	g, err := tx.Group(ctx, group)
	if err != nil {
		return err
	}
	u, err := tx.User(ctx, user)
	if err != nil {
		return err
	}
	_, err = tx.exec(ctx, `
		INSERT INTO group_members (group_id, user_id, created_at) VALUES ($1, $2, $3)
		ON CONFLICT (group_id, user_id) DO NOTHING`, g.ID, u.ID, micros(tx.now))
	return err
}

// RemoveGroupMember takes a user out of a group. It returns NOT_FOUND when the
// group, or the user in it, is not there, and CONFLICT for a member by the word
// of a provider.
func (tx *Tx) RemoveGroupMember(ctx context.Context, group, user string) error {
	g, err := tx.Group(ctx, group)
	if err != nil {
		return err
	}
	n, err := tx.exec(ctx, `
		DELETE FROM group_members WHERE group_id = $1 AND user_id = (SELECT id FROM users WHERE name = $2)`, g.ID, user)
	if err != nil || n > 0 {
		return err
	}
	var provided bool
	err = tx.row(ctx, `
		SELECT EXISTS (SELECT 1 FROM provider_groups p JOIN users u ON u.id = p.user_id WHERE p.name = $1 AND u.name = $2)`, group, user).Scan(&provided)
	if err == nil && provided {
		return oci.Errorf(oci.CodeConflict, "%s is in the group %s by the word of the identity provider: remove the member there, or disable the user", user, group)
	}
	if err != nil {
		return err
	}
	return oci.Errorf(oci.CodeNotFound, "%s is not a member of the group %s", user, group)
}

// UserGroups names the groups that a user is in, here or by the provider's word,
// in byte order; those that the provider names need no row of ours.
func (tx *Tx) UserGroups(ctx context.Context, userID int64) ([]string, error) {
	return list(ctx, tx, scanString, `
		SELECT g.name FROM group_members m JOIN groups g ON g.id = m.group_id WHERE m.user_id = $1
		 UNION
		SELECT p.name FROM provider_groups p WHERE p.user_id = $1
		 ORDER BY 1`, userID)
}
