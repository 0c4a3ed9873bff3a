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

// teamsOf gives the teams of somebody whose token holds, from the claim and from
// the service that lists them. A service that cannot say is an error, never "no teams".
func (a *Authenticator) teamsOf(ctx context.Context, token string, u user) (map[string]string, error) {
	list := u.teams
	kio := a.o.KioURL != "" && (!a.o.Realms || u.realm == realmServices)
	if kio || a.o.TeamServiceURL != "" {
		more, err := a.remembered("user\x00"+u.subject, func() ([]string, time.Duration, error) {
			ask := a.accounts
			if kio {
				ask = a.kio
			}
			teams, err := ask(ctx, token, u.name)
			return teams, teamsFor, err
		})
		if err != nil {
			return nil, fmt.Errorf("the teams of %s: %w", u.name, err)
		}
		list = append(slices.Clone(list), more...)
	}
	teams := map[string]string{}
	for _, team := range list {
		// What cannot stand in a repository's name is a team of something else.
		if _, err := oci.ParseName(team); err == nil && !strings.Contains(team, "/") {
			teams[team] = metadata.RoleMember
		}
	}
	return teams, nil
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
	case status != http.StatusOK: // also a 404: a service without this path must not look like one that knows no teams
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
	case status == http.StatusNotFound:
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

// Role is the third: the policy service says, to the holder of a token, whether it is
// in one team. A user whose token has not been seen here lately is an
// auth.ErrShowCredential. See auth.TeamService.
func (a *Authenticator) Role(ctx context.Context, p auth.Principal, team string) (string, error) {
	teams, err := a.remembered("team\x00"+strconv.FormatInt(p.ID, 10)+"\x00"+team, func() ([]string, time.Duration, error) {
		b, ok := a.bearers.Get(p.ID)
		if !ok || !a.o.Clock().Before(b.until) {
			return nil, 0, auth.ErrShowCredential
		}
		// One client that hangs up must not fail the others who ask the same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.o.Timeout)
		defer cancel()
		in, err := a.member(ctx, b.token, team)
		switch {
		case err != nil:
			return nil, 0, unavailable(fmt.Errorf("whether %s is in the team %s: %w", p.Name, team, err))
		case !in:
			return nil, notTeamFor, nil
		}
		return []string{team}, teamsFor, nil
	})
	if err != nil || len(teams) == 0 {
		return "", err
	}
	return metadata.RoleMember, nil
}

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
	case status == http.StatusUnauthorized:
		return false, auth.ErrShowCredential // the token has ended since
	case refused(status):
		return false, nil
	}
	return false, statusError(r, status)
}
