package client

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/cmd/berth/cli"
)

const (
	// completionTimeout is how long a shell waits for names after the tab key.
	completionTimeout = 3 * time.Second
	// completionNames is how many names are asked for, the most that a page has.
	completionNames = 1000
)

// completion gives names that begin so.
type completion func(ctx context.Context, s *Connection, begin string) ([]string, error)

// AddCompletion lets the shell complete the arguments of all commands below one:
// what an argument is, its usage says (TEAM, USER, ...), and NAME is what the
// command's parent manages. Names come from the server, as whoever is signed in may
// see them; without a server, there are none.
func AddCompletion(r *Remote, c *cobra.Command) {
	for _, sub := range c.Commands() {
		AddCompletion(r, sub)
	}
	if c.Runnable() && c.ValidArgsFunction == nil && c.Name() != "create" {
		var kinds []completion
		for _, word := range strings.Fields(c.Use)[1:] {
			kinds = append(kinds, completionOf(strings.Trim(word, "[]"), c.Parent().Name()))
		}
		c.ValidArgsFunction = func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= len(kinds) || kinds[len(args)] == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return complete(r, cmd, kinds[len(args)], begin)
		}
	}
	for name, kind := range map[string]completion{"team": completeTeams, "user": completeUsers, "group": completeGroups} {
		if c.Flags().Lookup(name) == nil {
			continue
		}
		err := c.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, _ []string, begin string) ([]string, cobra.ShellCompDirective) {
			return complete(r, cmd, kind, begin)
		})
		if err != nil {
			panic(err) // the flag was just found
		}
	}
}

func completionOf(word, parent string) completion {
	if word == "NAME" {
		word = strings.ToUpper(parent)
	}
	switch word {
	case "TEAM":
		return completeTeams
	case "USER":
		return completeUsers
	case "GROUP":
		return completeGroups
	case "REPO", "REPOSITORY":
		return completeRepositories
	case "REPOSITORY:TAG", "REPOSITORY[:TAG]":
		return completeTags
	}
	return nil
}

// complete asks the server. Whatever goes wrong is no name: there is no place
// to tell about it, and nobody is asked for a password at the tab key.
func complete(r *Remote, cmd *cobra.Command, kind completion, begin string) ([]string, cobra.ShellCompDirective) {
	none := cobra.ShellCompDirectiveNoFileComp
	if r.passwordStdin || r.username != "" && os.Getenv("BERTH_PASSWORD") == "" {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	cmd.SetContext(ctx)
	s, err := r.Connect(cmd)
	if err != nil {
		return nil, none
	}
	names, err := kind(ctx, s, begin)
	if err != nil {
		return nil, none
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, begin) })
	if slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, ":") }) {
		none |= cobra.ShellCompDirectiveNoSpace
	}
	return names, none
}

func namesOf[T any](items []T, name func(T) string) []string {
	names := make([]string, len(items))
	for i, item := range items {
		names[i] = name(item)
	}
	return names
}

func completeTeams(ctx context.Context, s *Connection, _ string) ([]string, error) {
	page, err := Fetched(s.ListTeamsWithResponse(ctx, &api.ListTeamsParams{Limit: cli.Pointer(completionNames)}))
	if err != nil {
		return nil, err
	}
	return namesOf(page.Items, func(t api.Team) string { return t.Name }), nil
}

func completeUsers(ctx context.Context, s *Connection, _ string) ([]string, error) {
	page, err := Fetched(s.ListUsersWithResponse(ctx, &api.ListUsersParams{Limit: cli.Pointer(completionNames)}))
	if err != nil {
		return nil, err
	}
	return namesOf(page.Items, func(u api.User) string { return u.Name }), nil
}

func completeGroups(ctx context.Context, s *Connection, _ string) ([]string, error) {
	page, err := Fetched(s.ListGroupsWithResponse(ctx, &api.ListGroupsParams{Limit: cli.Pointer(completionNames)}))
	if err != nil {
		return nil, err
	}
	return namesOf(page.Items, func(g api.Group) string { return g.Name }), nil
}

func completeRepositories(ctx context.Context, s *Connection, begin string) ([]string, error) {
	page, err := Fetched(s.ListRepositoriesWithResponse(ctx, &api.ListRepositoriesParams{Limit: cli.Pointer(completionNames), Prefix: &begin}))
	if err != nil {
		return nil, err
	}
	return namesOf(page.Items, func(r api.Repository) string { return r.Name }), nil
}

// completeTags completes the repository, and behind its colon the tag.
func completeTags(ctx context.Context, s *Connection, begin string) ([]string, error) {
	repository, _, colon := strings.Cut(begin, ":")
	if !colon {
		names, err := completeRepositories(ctx, s, begin)
		for i := range names {
			names[i] += ":"
		}
		return names, err
	}
	page, err := Fetched(s.ListTagsWithResponse(ctx, repository, &api.ListTagsParams{Limit: cli.Pointer(completionNames)}))
	if err != nil {
		return nil, err
	}
	return namesOf(page.Items, func(t api.Tag) string { return repository + ":" + t.Name }), nil
}
