package people

import (
	"cmp"
	"context"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// NewTeam is a team to be made.
type NewTeam struct {
	Name              string `json:"name"`
	DefaultVisibility string `json:"default_visibility,omitempty"` // "" takes the instance's
}

// CreateTeam makes a team without members. It returns INVALID, DENIED, or CONFLICT when the
// name is taken.
func (p *People) CreateTeam(ctx context.Context, by auth.Actor, n NewTeam) (metadata.Team, error) {
	if err := ParseName("team", n.Name); err != nil {
		return metadata.Team{}, err
	}
	if err := by.MayOpen(n.Name+"/*", metadata.Private, n.DefaultVisibility); err != nil {
		return metadata.Team{}, err
	}
	return in(ctx, p, func(b *Batch) (metadata.Team, error) {
		team, err := b.tx.CreateTeam(ctx, n.Name, n.DefaultVisibility)
		if err != nil {
			return team, err
		}
		return team, b.record(ctx, by, "createTeam", nil, n)
	})
}

// TeamChange says what to change of a team.
type TeamChange struct {
	DefaultVisibility string `json:"default_visibility"` // "" takes the instance's

	If func(before metadata.Team) error `json:"-"`
}

// UpdateTeam changes what the team's new repositories are. It returns NOT_FOUND or DENIED.
func (p *People) UpdateTeam(ctx context.Context, by auth.Actor, name string, c TeamChange) (metadata.Team, error) {
	return in(ctx, p, func(b *Batch) (team metadata.Team, err error) {
		if err := b.adopt(ctx, by, name); err != nil {
			return team, err
		}
		before, err := b.tx.LockTeam(ctx, name)
		if err != nil {
			return team, err
		}
		if err := check(c.If, before); err != nil {
			return team, err
		}
		if c.DefaultVisibility != before.DefaultVisibility {
			// The instance's may be any, so it counts as the most open one after, and the least before.
			after := cmp.Or(c.DefaultVisibility, metadata.Public)
			if err := by.MayOpen(name+"/*", cmp.Or(before.DefaultVisibility, metadata.Private), after); err != nil {
				return team, err
			}
		}
		if err := b.tx.SetTeamVisibility(ctx, name, c.DefaultVisibility); err != nil {
			return team, err
		}
		if team, err = b.tx.Team(ctx, name); err != nil {
			return team, err
		}
		return team, b.record(ctx, by, "updateTeam", Params{"team": name}, c)
	})
}

// DeleteTeam removes a team with all that names it; metadata.DeleteTeam says what that is.
// A team with repositories stays: whoever made a team of the same name later would get
// them. A push that makes one at the same moment leaves it to the admins. It returns
// NOT_FOUND, or CONFLICT that names what is in the way. condition may be nil.
func (p *People) DeleteTeam(ctx context.Context, by auth.Actor, name string, condition func(metadata.Team) error) error {
	return do(ctx, p, func(b *Batch) error {
		before, err := b.tx.LockTeam(ctx, name)
		if err != nil {
			return err
		}
		if err := check(condition, before); err != nil {
			return err
		}
		left, err := b.tx.Repositories(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{All: true}, Team: name, Limit: 1})
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return oci.Errorf(oci.CodeConflict, "the team %s has repositories, such as %s: delete them first", name, left[0].Name)
		}
		named, err := b.tx.NamesTeam(ctx, name)
		if err != nil {
			return err
		}
		if err := b.tx.DeleteTeam(ctx, name); err != nil {
			return err
		}
		return b.record(ctx, by, "deleteTeam", Params{"team": name}, struct {
			Grants   int      `json:"grants,omitempty"`
			Accounts int      `json:"accounts,omitempty"`
			Denials  []string `json:"denials,omitempty"`
		}{len(named.Grants), len(named.Accounts), named.Denials})
	})
}

// PutMember adds a user to a team, or changes the role there. It returns NOT_FOUND or DENIED.
func (p *People) PutMember(ctx context.Context, by auth.Actor, team, user, role string) error {
	right := auth.Right{What: "a role in a team", Limit: auth.Limit{Repositories: team + "/*", Actions: auth.RoleActions(role)}}
	if err := by.MayGive(right); err != nil {
		return err
	}
	return do(ctx, p, func(b *Batch) error {
		if err := b.adopt(ctx, by, team); err != nil {
			return err
		}
		if err := b.tx.PutMember(ctx, team, user, role); err != nil {
			return err
		}
		return b.record(ctx, by, "putMember", Params{"team": team, "user": user}, map[string]string{"role": role})
	})
}

// RemoveMember takes a user out of a team. It returns NOT_FOUND.
func (p *People) RemoveMember(ctx context.Context, by auth.Actor, team, user string) error {
	return do(ctx, p, func(b *Batch) error {
		if err := b.adopt(ctx, by, team); err != nil {
			return err
		}
		if err := b.tx.RemoveMember(ctx, team, user); err != nil {
			return err
		}
		return b.record(ctx, by, "removeMember", Params{"team": team, "user": user}, nil)
	})
}

// Team gives a team's row. It returns NOT_FOUND.
func (p *People) Team(ctx context.Context, name string) (metadata.Team, error) {
	return view(ctx, p, func(tx *metadata.Tx) (metadata.Team, error) { return tx.Team(ctx, name) })
}

// Teams lists the teams that a caller may see behind a name, in byte order, at most limit: an
// administrator all, a user those of the user, and a robot its own.
func (p *People) Teams(ctx context.Context, by auth.Principal, after string, limit int) ([]metadata.Team, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.Team, error) {
		switch {
		case by.IsAdmin():
			return tx.Teams(ctx, 0, after, limit)
		case by.Kind == auth.KindUser:
			return tx.Teams(ctx, by.ID, after, limit)
		case by.Team > after: // a robot is in one team
			team, err := tx.Team(ctx, by.Team)
			return []metadata.Team{team}, err
		}
		return nil, nil
	})
}

// UserTeams gives the roles of a user by team, ours and those of the user's provider.
func (p *People) UserTeams(ctx context.Context, userID int64) (map[string]string, error) {
	return view(ctx, p, func(tx *metadata.Tx) (map[string]string, error) { return tx.UserTeams(ctx, userID) })
}

// Members lists members of a team behind a name, in byte order, at most limit. It returns
// NOT_FOUND for the team.
func (p *People) Members(ctx context.Context, team, after string, limit int) ([]metadata.Member, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.Member, error) { return tx.Members(ctx, team, after, limit) })
}
