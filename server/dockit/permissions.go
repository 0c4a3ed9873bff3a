package dockit

import (
	"net/http"
	"strings"
	"time"

	"berth/metadata"
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
func (h *Dockit) permissions(r *http.Request, c call) (any, error) {
	rights, err := h.people.Rights(r.Context(), c.grantee())
	if err != nil {
		return nil, err
	}
	list := make([]permission, len(rights))
	for i, right := range rights {
		list[i] = permissionOf(right.Grant)
		if u := right.User; u != nil {
			list[i].User = &account{u.ID, u.Name, u.Name, u.IsAdmin(), !u.Disabled, u.CreatedAt, u.UpdatedAt}
		}
		if g := right.Group; g != nil {
			list[i].Group = &group{g.ID, g.Name, !g.Disabled, g.CreatedAt, g.UpdatedAt}
		}
	}
	return list, nil
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
