package oauth2

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"berth/auth"
	"berth/oci"
)

// user is what an answer says of the token and of who holds it.
type user struct {
	name, subject string
	realm         string // without the slash before it
	expires       time.Time
	limit         *auth.Limit
	everywhere    auth.Actions
	teams         []string // of the claim
	claims        map[string]string
}

// noExpiry is how long a token counts whose answer does not say how long it lives:
// what is made from it ends then, and the server is asked again.
const noExpiry = time.Hour

// user reads the answer about a token that holds. The error is ErrWrong for one
// that has ended or is for somebody else, and DENIED for one that names nobody.
func (a *Authenticator) user(answer map[string]any, now time.Time) (user, error) {
	u := user{name: text(answer[a.o.NameClaim]), subject: text(answer[a.o.SubjectClaim]), expires: now.Add(noExpiry)}
	if v, ok := answer["exp"]; ok {
		seconds, ok := number(v)
		if !ok {
			return u, fmt.Errorf("the OAuth2 server gives an exp that is no number")
		}
		u.expires = time.Unix(int64(seconds), 0)
	}
	if v, ok := answer["expires_in"]; ok {
		seconds, ok := number(v)
		if !ok {
			return u, fmt.Errorf("the OAuth2 server gives an expires_in that is no number")
		}
		u.expires = earlier(u.expires, now.Add(time.Duration(seconds*float64(time.Second))))
	}
	if v, ok := answer["nbf"]; ok {
		if seconds, ok := number(v); !ok || time.Unix(int64(seconds), 0).After(now.Add(time.Minute)) {
			return u, auth.Wrongf("the OAuth2 access token is not valid yet")
		}
	}
	switch {
	case !now.Before(u.expires):
		return u, errToken
	case a.o.Audience != "" && !slices.Contains(words(answer["aud"]), a.o.Audience):
		return u, auth.Wrongf("the OAuth2 access token is not for this registry: its audience has to hold %q", a.o.Audience)
	case u.name == "" || u.subject == "":
		return u, oci.Errorf(oci.CodeDenied, "Forbidden: the OAuth2 access token names no user (%s), so it cannot be used here", a.o.NameClaim).
			WithDetail(map[string]string{"rule": "no-user", "ask": "whoever issues the OAuth2 tokens, for one of a user"})
	}
	scopes := words(answer["scope"])
	if a.o.Realms {
		u.realm = strings.Trim(text(answer["realm"]), "/")
		u.limit, u.everywhere = rights(u.realm, scopes)
		// Two realms may have the same name for two people.
		u.subject = u.realm + "/" + u.subject
	}
	if a.o.TeamClaim != "" {
		u.teams = names(answer[a.o.TeamClaim])
	}
	u.claims = map[string]string{}
	for name, value := range map[string]string{
		"realm": text(answer["realm"]), "scope": strings.Join(scopes, " "), "client_id": text(answer["client_id"]), "iss": text(answer["iss"]),
	} {
		if value != "" {
			u.claims[name] = clip(value)
		}
	}
	return u, nil
}

// The scopes and realms of Pier One.
const (
	scopeWrite          = "application.write"
	scopeWriteAll       = "application.write_all"
	scopeWriteAllTrust  = "application.write_all_trusted"
	realmServices       = "services"
	realmEmployees      = "employees"
	pushing             = auth.Pull | auth.Push
	everyRepositoryGlob = "*"
)

// rights are Pier One's rules about who may write. They come with the token and not
// with the user, so they narrow and widen what the user's teams give:
//
//   - application.write_all: pull and push everywhere;
//   - realm /employees: what the teams give;
//   - realm /services: the same, for pull and push, with application.write; else pull only;
//   - any other realm: pull only.
//
// A token of a service is never for administration.
func rights(realm string, scopes []string) (limit *auth.Limit, everywhere auth.Actions) {
	only := func(a auth.Actions) *auth.Limit {
		return &auth.Limit{Repositories: everyRepositoryGlob, Actions: a}
	}
	all := slices.Contains(scopes, scopeWriteAll) || slices.Contains(scopes, scopeWriteAllTrust)
	if all {
		everywhere = pushing
	}
	switch {
	case realm == realmEmployees:
		return nil, everywhere
	case all, realm == realmServices && slices.Contains(scopes, scopeWrite):
		return only(pushing), everywhere
	}
	return only(auth.Pull), 0
}

// text is a claim that is a string; a number, as some servers give for ids, counts too.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// number is a claim that is a number, or a string of one.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, v > -1e15 && v < 1e15
	case string:
		f, err := strconv.ParseFloat(v, 64)
		return f, err == nil && f > -1e15 && f < 1e15
	}
	return 0, false
}

// words are a claim that is a list of strings, or a string of words.
func words(v any) []string {
	switch v := v.(type) {
	case string:
		return strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' })
	case []any:
		var list []string
		for _, item := range v {
			if s, ok := item.(string); ok {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}

// names are the teams of a list: strings, or objects with a name.
func names(v any) []string {
	list := words(v)
	items, _ := v.([]any)
	for _, item := range items {
		if o, ok := item.(map[string]any); ok {
			if name := text(o["name"]); name != "" {
				list = append(list, name)
			}
		}
	}
	return list
}

// earlier is the first of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// clip bounds a claim, at the border of a character.
func clip(s string) string {
	if len(s) <= auth.MaxClaimSize {
		return s
	}
	s = s[:auth.MaxClaimSize]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
