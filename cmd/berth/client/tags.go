package client

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
	"berth/oci"
)

// NewTagCommand makes 'berth tag'.
func NewTagCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "tag",
		Short: "List, show, delete and restore tags, and show their history",
		Example: `  berth tag list core/app
  berth tag history core/app:1.0
  berth tag delete core/app:1.0 --yes
  berth tag restore core/app:1.0`,
	}
	c.AddCommand(newTagListCommand(r), newTagShowCommand(r), newTagHistoryCommand(r), newTagDeleteCommand(r),
		newTagDeletedCommand(r), newTagRestoreCommand(r))
	return c
}

// tagArgument reads REPOSITORY:TAG.
func tagArgument(s string) (repository, tag string, err error) {
	repository, tag, ok := strings.Cut(s, ":")
	if !ok {
		return "", "", cli.Usagef("%q names no tag: write REPOSITORY:TAG, such as core/app:1.0", s)
	}
	if err := NameArgument("repository", repository); err != nil {
		return "", "", err
	}
	if _, err := oci.ParseTag(tag); err != nil {
		return "", "", cli.Usagef("%q is not a tag: write REPOSITORY:TAG, such as core/app:1.0", tag)
	}
	return repository, tag, nil
}

func newTagListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list REPOSITORY",
		Short:   "List a repository's tags",
		Example: `  berth tag list core/app`,
		Args:    arguments(nameOf("repository")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			tags := All(func(limit *api.Limit, after *api.After) (*client.ListTagsResponse, error) {
				return s.ListTagsWithResponse(cmd.Context(), args[0], &api.ListTagsParams{Limit: limit, After: after})
			})
			return printList(r, cmd, tags, []string{"TAG", "DIGEST", "POLICY", "PUSHED", "BY"}, func(t api.Tag) []string {
				return []string{t.Name, t.Digest, string(t.Mode), cli.ShowTime(t.UpdatedAt), t.UpdatedBy}
			})
		}),
	}
}

func newTagShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show REPOSITORY:TAG",
		Short:   "Show a tag",
		Example: `  berth tag show core/app:1.0`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			repository, tag, err := tagArgument(args[0])
			if err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			t, err := Fetched(s.GetTagWithResponse(cmd.Context(), repository, tag))
			if err != nil {
				return err
			}
			return printFacts(r, cmd, t,
				fact{"Tag", t.Name},
				fact{"Digest", t.Digest},
				fact{"Media type", t.MediaType},
				fact{"Manifest size", oci.ShowBytes(t.Size)},
				fact{"Policy", string(t.Mode)},
				fact{"Created", cli.ShowTime(t.CreatedAt)},
				fact{"Pushed", cli.ShowTime(t.UpdatedAt) + " by " + t.UpdatedBy})
		},
	}
}

func newTagHistoryCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "history REPOSITORY:TAG",
		Short:   "Show what happened to a tag, newest first, refused attempts too",
		Example: `  berth tag history core/app:1.0`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			repository, tag, err := tagArgument(args[0])
			if err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			events := All(func(limit *api.Limit, after *api.After) (*client.ListTagHistoryResponse, error) {
				return s.ListTagHistoryWithResponse(cmd.Context(), repository, tag, &api.ListTagHistoryParams{Limit: limit, After: after})
			})
			return printList(r, cmd, events, []string{"WHEN", "WHAT", "WHO", "DIGEST", "PROVENANCE"}, func(e api.TagEvent) []string {
				return []string{cli.ShowTime(e.At), string(e.Action), e.Actor, e.Digest, showClaims(e.Claims)}
			})
		},
	}
}

// showClaims is what an identity provider said of somebody, in one line.
func showClaims(claims *api.Provenance) string {
	if claims == nil {
		return "-"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(*claims)) {
		parts = append(parts, name+"="+(*claims)[name])
	}
	return strings.Join(parts, " ")
}

func newTagDeleteCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete REPOSITORY:TAG",
		Short:   "Delete a tag; its history stays, and it can be restored for a while",
		Example: `  berth tag delete core/app:1.0 --yes`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			repository, tag, err := tagArgument(args[0])
			if err != nil {
				return err
			}
			if err := r.confirm(cmd, "This deletes the tag "+args[0]+"."); err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			if err := Done(s.DeleteTagWithResponse(cmd.Context(), repository, tag)); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "tag %s is deleted", args[0])
		},
	}
}

func newTagDeletedCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:   "deleted REPOSITORY",
		Short: "List deleted tags and manifests that can be restored, newest first",
		Example: `  berth tag deleted core/app
  berth tag deleted core/app -o json`,
		Args: arguments(nameOf("repository")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			tags := All(func(limit *api.Limit, after *api.After) (*client.ListDeletedTagsResponse, error) {
				return s.ListDeletedTagsWithResponse(cmd.Context(), args[0], &api.ListDeletedTagsParams{Limit: limit, After: after})
			})
			manifests := All(func(limit *api.Limit, after *api.After) (*client.ListDeletedManifestsResponse, error) {
				return s.ListDeletedManifestsWithResponse(cmd.Context(), args[0], &api.ListDeletedManifestsParams{Limit: limit, After: after})
			})
			// A manifest is a line without a tag.
			rows := func(yield func(api.DeletedTag, error) bool) {
				for t, err := range tags {
					if !yield(t, err) {
						return
					}
				}
				for m, err := range manifests {
					if !yield(api.DeletedTag{Digest: m.Digest, DeletedAt: m.DeletedAt, DeletedBy: m.DeletedBy, Until: m.Until}, err) {
						return
					}
				}
			}
			return printList(r, cmd, rows, []string{"TAG", "DIGEST", "DELETED", "BY", "UNTIL"}, func(t api.DeletedTag) []string {
				return []string{cli.ShowOr(&t.Name, "-"), t.Digest, cli.ShowTime(t.DeletedAt), t.DeletedBy, cli.ShowTime(t.Until)}
			})
		}),
	}
}

func newTagRestoreCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:   "restore REPOSITORY:TAG[@DIGEST] | REPOSITORY@DIGEST",
		Short: "Restore a deleted tag or manifest",
		Long: `Restore a deleted tag, with its manifest if that was deleted too; or, by a digest alone, a
deleted manifest with the tags that went along. It works until the undo window is over, and
never moves a tag that was pushed again.`,
		Example: `  berth tag restore core/app:1.0
  berth tag restore core/app@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, digest, byDigest := strings.Cut(args[0], "@")
			var body api.RestoreRequest
			if byDigest {
				if _, err := oci.ParseDigest(digest); err != nil {
					return cli.Usagef("%q is not a digest, such as sha256: and 64 hexadecimal digits", digest)
				}
				body.Digest = &digest
			}
			repository := name
			if !byDigest || strings.Contains(name, ":") {
				var tag string
				var err error
				if repository, tag, err = tagArgument(name); err != nil {
					return err
				}
				body.Tag = &tag
			} else if err := NameArgument("repository", repository); err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			restored, err := Fetched(s.RestoreDeletedWithResponse(cmd.Context(), repository, body))
			if err != nil {
				return err
			}
			text := restored.Digest + " is restored"
			if len(restored.Tags) > 0 {
				text += " as " + strings.Join(restored.Tags, ", ")
			}
			if len(restored.Taken) > 0 {
				text += "; not " + strings.Join(restored.Taken, ", ") + ", which was pushed again"
			}
			return PrintDone(r, cmd, restored, "%s", text)
		},
	}
}
