package oauth2

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// asksTeams reports whether a service has to be asked about the teams of a user. It is asked when a decision
// depends on a team, and not at the sign-in: pulls, and tokens that may push everywhere, do not need it.
func (a *Authenticator) asksTeams(u user) bool {
	return a.o.PolicyURL != "" || a.o.TeamServiceURL != "" || a.asksKio(u)
}

// asksKio reports whether a user is one of an application.
func (a *Authenticator) asksKio(u user) bool {
	return a.o.KioURL != "" && (!a.o.Realms || u.realm == realmServices)
}

// claimed gives the teams of the claim, which is at hand.
func claimed(u user) map[string]string {
	teams := map[string]string{}
	for _, team := range u.teams {
		// What cannot stand in a repository's name is a team of something else.
		if _, err := oci.ParseName(team); err == nil && !strings.Contains(team, "/") {
			teams[team] = metadata.RoleMember
		}
	}
	return teams
}

// remembered gives an answer of a team service, asking when none still counts.
// Errors are not remembered.
func (a *Authenticator) remembered(key string, ask func() ([]string, time.Duration, error)) ([]string, error) {
	if m, ok := a.teams.Get(key); ok && a.o.Clock().Before(m.until) {
		return m.teams, nil
	}
	v, err, _ := a.flights.Do("teams\x00"+key, func() (any, error) {
		teams, keep, err := ask()
		if err == nil {
			a.teams.Add(key, membership{teams, a.o.Clock().Add(keep)})
		}
		return teams, err
	})
	if err != nil {
		return nil, err
	}
	return v.([]string), nil
}

// accounts is the first contract: all teams of a member.
func (a *Authenticator) accounts(ctx context.Context, token, name string) ([]string, error) {
	address := strings.TrimRight(a.o.TeamServiceURL, "/") + "/api/accounts/aws?member=" + url.QueryEscape(name)
	r, status, body, err := a.get(ctx, token, address, nil)
	switch {
	case err != nil:
		return nil, err
	case refused(status):
		return nil, nil
	case status != http.StatusOK:
		return nil, statusError(r, status)
	}
	var list []struct {
		Name string `json:"name"`
	}
	if err := parse(r, body, &list); err != nil {
		return nil, err
	}
	teams := make([]string, 0, len(list))
	for _, account := range list {
		teams = append(teams, account.Name)
	}
	return teams, nil
}

// kio is the second: the one team that an application belongs to.
func (a *Authenticator) kio(ctx context.Context, token, name string) ([]string, error) {
	app, prefixed := strings.CutPrefix(name, a.o.KioPrefix)
	if a.o.KioPrefix == "" {
		app = name[strings.LastIndexByte(name, '_')+1:]
	} else if !prefixed {
		return nil, nil // no user of an application
	}
	if app == "" {
		return nil, nil
	}
	r, status, body, err := a.get(ctx, token, strings.TrimRight(a.o.KioURL, "/")+"/apps/"+url.PathEscape(app), nil)
	switch {
	case err != nil:
		return nil, err
	case refused(status):
		return nil, nil
	case status != http.StatusOK:
		return nil, statusError(r, status)
	}
	var found struct {
		TeamID string `json:"team_id"`
	}
	if err := parse(r, body, &found); err != nil {
		return nil, err
	}
	return []string{found.TeamID}, nil
}

// Role asks the services whether a user is in a team. A user whose token has not been seen here lately is an
// auth.ErrShowCredential. See auth.TeamService. One that refuses the question, with a 4xx, knows of no
// team; one that cannot say is UNAVAILABLE. An answer is believed for some minutes, a "no" for a shorter time.
func (a *Authenticator) Role(ctx context.Context, p auth.Principal, team string) (string, error) {
	b, ok := a.bearers.Get(p.ID)
	shown := ok && a.o.Clock().Before(b.until)
	// One client that hangs up must not fail the others who ask the same.
	ask := func(question func(context.Context) ([]string, error)) func() ([]string, time.Duration, error) {
		return func() ([]string, time.Duration, error) {
			if !shown {
				return nil, 0, auth.ErrShowCredential
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.o.Timeout)
			defer cancel()
			teams, err := question(ctx)
			switch {
			case err != nil:
				return nil, 0, unavailable(fmt.Errorf("whether %s is in the team %s: %w", p.Name, team, err))
			case len(teams) == 0:
				return nil, notTeamFor, nil
			}
			return teams, teamsFor, nil
		}
	}
	id := strconv.FormatInt(p.ID, 10)
	var teams []string
	var err error
	switch {
	case a.o.PolicyURL != "": // the third contract: one team at a time
		teams, err = a.remembered("team\x00"+id+"\x00"+team, ask(func(ctx context.Context) ([]string, error) {
			in, err := a.member(ctx, b.token, team)
			if !in || err != nil {
				return nil, err
			}
			return []string{team}, nil
		}))
	default:
		teams, err = a.remembered("user\x00"+id, ask(func(ctx context.Context) ([]string, error) {
			if b.kio {
				return a.kio(ctx, b.token, p.Name)
			}
			return a.accounts(ctx, b.token, p.Name)
		}))
	}
	if err != nil || !slices.Contains(teams, team) {
		return "", err
	}
	return metadata.RoleMember, nil
}

// member is the third contract: the policy service says whether the holder of a token is in one team.
func (a *Authenticator) member(ctx context.Context, token, team string) (bool, error) {
	question := map[string]any{"policy": a.o.Policy, "payload": map[string]string{"team": team}}
	body, err := json.Marshal(question)
	if err != nil {
		return false, err
	}
	r, status, _, err := a.get(ctx, token, strings.TrimRight(a.o.PolicyURL, "/")+"/auth", body)
	switch {
	case err != nil:
		return false, err
	case status == http.StatusOK:
		return true, nil
	case refused(status):
		return false, nil
	}
	return false, statusError(r, status)
}
