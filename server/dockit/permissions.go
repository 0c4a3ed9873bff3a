package dockit

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"berth/metadata"
	"berth/oci"
)

// permission is a right as Dockit shows it.
type permission struct {
	ID        int64     `json:"id"`
	Type      string    `json:"type"` // repository, namespace, or pattern for what Dockit has no word for
	Class     string    `json:"class,omitempty"`
	Name      string    `json:"name"`
	Action    string    `json:"action"`
	User      *account  `json:"user,omitempty"`
	Group     *group    `json:"group,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// account is a user as Dockit shows one. Its field Username has no other name there.
type account struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	Username  string    `json:"Username"`
	Admin     bool      `json:"admin"`
	Active    bool      `json:"active"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

type group struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	Active    bool      `json:"active"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// permissions lists what a user or a group may by grants; a user's include those of
// the user's groups.
func (h *handler) permissions(r *http.Request, c call) (any, error) {
	ctx := r.Context()
	list := []permission{}
	err := h.DB.Snapshot(ctx, func(tx *metadata.Tx) error {
		list = list[:0]
		if c.kind == "group" {
			return addGroupGrants(ctx, tx, c.name, &list)
		}
		u, err := tx.User(ctx, c.name)
		if err != nil {
			return err
		}
		grants, err := grantsOf(ctx, tx, c.grantee())
		if err != nil {
			return err
		}
		who := &account{u.ID, u.Name, u.Name, u.IsAdmin(), !u.Disabled, u.CreatedAt, u.UpdatedAt}
		for _, g := range grants {
			p := permissionOf(g)
			p.User = who
			list = append(list, p)
		}
		groups, err := tx.UserGroups(ctx, u.ID)
		if err != nil {
			return err
		}
		for _, name := range groups {
			// A group that only the user's provider knows has no row and no grants.
			if err := addGroupGrants(ctx, tx, name, &list); err != nil && !errors.Is(err, oci.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	return list, err
}

func addGroupGrants(ctx context.Context, tx *metadata.Tx, name string, list *[]permission) error {
	g, err := tx.Group(ctx, name)
	if err != nil {
		return err
	}
	grants, err := grantsOf(ctx, tx, metadata.Grantee{Group: name})
	if err != nil {
		return err
	}
	shown := &group{g.ID, g.Name, !g.Disabled, g.CreatedAt, g.UpdatedAt}
	for _, one := range grants {
		p := permissionOf(one)
		p.Group = shown
		*list = append(*list, p)
	}
	return nil
}

func permissionOf(g metadata.Grant) permission {
	p := permission{ID: g.ID, Type: "pattern", Name: g.Pattern, Action: permissionAction(g.Actions), CreatedAt: g.CreatedAt, UpdatedAt: g.UpdatedAt}
	switch name, found := strings.CutSuffix(g.Pattern, "/*"); {
	case !strings.ContainsAny(g.Pattern, "*?"):
		p.Type = "repository"
	case found && !strings.ContainsAny(name, "*?"):
		p.Type, p.Name = "namespace", name
	}
	return p
}
