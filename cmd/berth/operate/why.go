package operate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"berth/api"
	apiclient "berth/api/client"
	"berth/api/reports"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/cmd/berth/settings"
	"berth/metadata"
	"berth/oci"
	"berth/registry"
	"berth/registry/collect"
)

// NewWhyCommand makes 'berth why'.
func NewWhyCommand() *cobra.Command {
	var output *cli.Choice
	var where place
	c := &cobra.Command{
		Use:   "why DIGEST",
		Short: "Say what keeps a blob or manifest, or when it goes",
		Long: `Say what keeps a blob or manifest: every repository that has it, the manifests that need it, and the
tags, indexes and subjects that hold those, also deleted ones that can still be restored; or since when nothing
does, and which rule decides when it goes. Of tags it says which retention rules keep them, or let them go.
A server tells everybody of the repositories that they may pull from, and admins of all.` + whereHelp,
		Example: `  berth why sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
  berth why sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := oci.ParseDigest(args[0])
			if err != nil {
				return cli.Usagef("%q is not a digest, such as sha256: and 64 hexadecimal digits", args[0])
			}
			show := func(why api.DigestHolders) error {
				if output.Value == "json" {
					return cli.PrintJSON(cmd.OutOrStdout(), why)
				}
				printWhy(cmd.OutOrStdout(), why)
				return nil
			}
			if remote, err := where.remote(cmd); err != nil {
				return err
			} else if remote {
				s, err := where.server.Connect(cmd)
				if err != nil {
					return err
				}
				shown, err := client.Fetched(s.ExplainDigestWithResponse(cmd.Context(), d.String()))
				if err != nil {
					return err
				}
				return show(*shown)
			}
			return runLocal(cmd, false, func(ctx context.Context, l *local) error {
				why, err := l.collector.Why(ctx, d)
				if err != nil {
					var known *oci.Error
					if errors.As(err, &known) && errors.Is(err, oci.ErrBlobUnknown) {
						return errors.New(known.Message)
					}
					return err
				}
				return show(reports.DigestHolders(why))
			})
		},
	}
	settings.AddFlags(c.Flags())
	where.addFlags(c)
	output = cli.OutputFlag(c)
	return c
}

// printWhy writes a tree: what is indented further holds what is above it.
func printWhy(w io.Writer, why api.DigestHolders) {
	fmt.Fprintln(w, why.Digest)
	if b := why.Blob; b != nil {
		fmt.Fprintf(w, "blob of %s", oci.ShowBytes(b.Size))
		if b.Key != nil { // a server tells admins only
			fmt.Fprintf(w, ", stored %s, object %s", cli.ShowTime(cli.Value(b.StoredAt)), *b.Key)
		}
		fmt.Fprintln(w)
		if b.MissingSince != nil {
			fmt.Fprintf(w, "  its bytes are lost since %s: push it again\n", cli.ShowTime(*b.MissingSince))
		}
		if b.Fate != nil {
			fmt.Fprintln(w, "  no repository has it: "+fateText(b.Fate))
		}
	}
	for _, r := range why.Repositories {
		fmt.Fprintln(w, "repository", r.Name)
		if r.LinkedAt != nil {
			fmt.Fprintf(w, "  has the blob since %s\n", cli.ShowTime(*r.LinkedAt))
		}
		if r.Fate != nil {
			fmt.Fprintln(w, "  no manifest needs the blob: "+fateText(r.Fate))
		}
		manifests := cli.Value(r.Manifests)
		for _, m := range manifests {
			printHolder(w, "needed by the manifest", m, "  ")
		}
		if more := r.NeededBy - int64(len(manifests)); more > 0 {
			fmt.Fprintf(w, "  and by %d more\n", more)
		}
		for _, d := range cli.Value(r.Deleted) {
			fmt.Fprintf(w, "  needed by the deleted manifest %s (%s), %s\n", d.Digest, cli.Value(d.MediaType), undoText(d))
		}
		if cli.Value(r.Truncated) {
			fmt.Fprintln(w, "  and by more deleted ones")
		}
		if r.Manifest != nil {
			printHolder(w, "has the manifest", *r.Manifest, "  ")
		}
		if d := r.DeletedManifest; d != nil {
			fmt.Fprintf(w, "  had the manifest (%s), deleted %s\n", cli.Value(d.MediaType), undoText(*d))
		}
	}
	if cli.Value(why.Truncated) {
		fmt.Fprintln(w, "more repositories have it")
	}
	if cli.Value(why.RulesTruncated) {
		fmt.Fprintln(w, "retention rules of more tags: see berth retention dry-run")
	}
	for _, o := range cli.Value(why.Removals) {
		fmt.Fprintf(w, "collected: the object %s (%s) goes after %s\n", o.Key, oci.ShowBytes(o.Size), cli.ShowTime(o.After))
	}
}

func printHolder(w io.Writer, how string, h api.HoldingManifest, indent string) {
	kind := cmp.Or(cli.Value(h.ArtifactType), h.MediaType)
	fmt.Fprintf(w, "%s%s %s (%s)\n", indent, how, h.Digest, kind)
	indent += "  "
	for _, t := range cli.Value(h.Tags) {
		fmt.Fprintf(w, "%stag %s (%s), pushed %s\n", indent, t.Name, t.Policy, cli.ShowTime(t.PushedAt))
		printTagRetention(w, t.Retention, indent+"  ")
	}
	for _, d := range cli.Value(h.Deleted) {
		switch d.As {
		case collect.DeletedTag:
			fmt.Fprintf(w, "%sdeleted tag %s, %s\n", indent, cli.Value(d.Tag), undoText(d))
		case collect.DeletedSubject:
			fmt.Fprintf(w, "%srefers to the deleted manifest %s (%s), %s\n", indent, d.Digest, cli.Value(d.MediaType), undoText(d))
		default:
			fmt.Fprintf(w, "%sin the deleted index %s (%s), %s\n", indent, d.Digest, cli.Value(d.MediaType), undoText(d))
		}
	}
	for _, i := range cli.Value(h.Indexes) {
		printHolder(w, "in the index", i, indent)
	}
	if h.Subject != nil {
		printHolder(w, "refers to", *h.Subject, indent)
	}
	if h.Fate != nil {
		fmt.Fprintln(w, indent+"nothing holds it: "+fateText(h.Fate))
	}
	if cli.Value(h.Truncated) {
		fmt.Fprintln(w, indent+"and more")
	}
}

// printTagRetention says what keeps a tag, or what lets it go.
func printTagRetention(w io.Writer, t *api.TagRetention, indent string) {
	if t == nil {
		return
	}
	if !t.Keep {
		when := ""
		if t.After != nil {
			when = " after " + cli.ShowTime(*t.After)
		}
		fmt.Fprintf(w, "%sgoes with the next run of retention%s (retention:%s of the %s)\n", indent, when, cli.Value(t.Rule), t.Level)
	}
	for _, reason := range t.Reasons {
		if reason.Keeps != t.Keep {
			continue
		}
		parts := []string{"not kept"}
		if t.Keep {
			parts[0] = "kept"
		}
		if reason.Rule != nil {
			parts = append(parts, "by retention:"+*reason.Rule)
		}
		if reason.Until != nil {
			parts = append(parts, "until "+cli.ShowTime(*reason.Until))
		}
		fmt.Fprintf(w, "%s%s: %s\n", indent, strings.Join(parts, " "), reason.Reason)
	}
}

// undoText is until when a deletion can be undone.
func undoText(d api.HoldingDeletion) string {
	text := "by " + d.DeletedBy + " at " + cli.ShowTime(d.DeletedAt) + ", can be restored until " + cli.ShowTime(d.Until) + " (undo_window)"
	if tags := cli.Value(d.Tags); len(tags) > 0 {
		text += ", with the tags " + strings.Join(tags, ", ")
		if cli.Value(d.Truncated) {
			text += " and more"
		}
	}
	return text
}

// fateText is what becomes of something, and by which rule.
func fateText(f *api.Fate) string {
	var parts []string
	rule := f.Rule
	if f.Level != nil {
		rule += " of the " + *f.Level
	}
	if reason := gcReasons[cli.Value(f.Reason)]; reason != "" {
		parts = append(parts, reason)
	}
	switch {
	case f.Since == nil:
		parts = append(parts, "since when was not noted, run berth check --repair")
	case f.After == nil:
		parts = append(parts, "since "+cli.ShowTime(*f.Since), "kept, because "+rule+" is 0s")
	default:
		parts = append(parts, "since "+cli.ShowTime(*f.Since), "goes after "+cli.ShowTime(*f.After)+" ("+rule+")")
	}
	return strings.Join(parts, ", ")
}

// NewDuCommand makes 'berth du'.
func NewDuCommand() *cobra.Command {
	var output *cli.Choice
	var teams bool
	var team string
	var where place
	c := &cobra.Command{
		Use:   "du",
		Short: "Show how much space teams and repositories take",
		Long: `Show how much space teams and repositories take:

  logical  what its repositories hold, a blob counted in each that has it
  unique   what would be free without it, because nobody else has these blobs
  shared   blobs that others have as well, stored once
  waiting  blobs that no manifest of the repository needs, now or not yet

It reads all links. A server tells admins about all teams, and the members of a team about its repositories
(--team), without what is unique and shared: that would tell what other teams have.` + whereHelp,
		Example: `  berth du
  berth du --teams -o json
  berth du --team core --server https://registry.example.com`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if team != "" {
				if err := client.NameArgument("team", team); err != nil {
					return err
				}
			}
			if remote, err := where.remote(cmd); err != nil {
				return err
			} else if remote {
				return remoteDu(cmd, &where.server, team, output)
			}
			return runLocal(cmd, false, func(ctx context.Context, l *local) error {
				usage, err := l.registry.Usage(ctx)
				if err != nil {
					return err
				}
				if team != "" {
					other := func(u metadata.Usage) bool { return u.Team != team }
					usage.Teams = slices.DeleteFunc(usage.Teams, other)
					usage.Repositories = slices.DeleteFunc(usage.Repositories, other)
				}
				if team != "" && len(usage.Repositories) == 0 {
					_, err := l.people().Team(ctx, team)
					if errors.Is(err, oci.ErrNotFound) {
						return errors.New("there is no team " + team)
					}
					if err != nil {
						return err
					}
				}
				measured := usageOf(usage)
				if output.Value == "json" {
					return cli.PrintJSON(cmd.OutOrStdout(), measured)
				}
				return printUsage(cmd.OutOrStdout(), measured, teams)
			})
		},
	}
	settings.AddFlags(c.Flags())
	where.addFlags(c)
	c.Flags().BoolVar(&teams, "teams", false, "only the teams")
	c.Flags().StringVar(&team, "team", "", "only this team and its repositories")
	output = cli.OutputFlag(c)
	return c
}

// remoteDu asks a server: for all teams, or for the repositories of one.
func remoteDu(cmd *cobra.Command, r *client.Remote, team string, output *cli.Choice) error {
	s, err := r.Connect(cmd)
	if err != nil {
		return err
	}
	ctx, w := cmd.Context(), cmd.OutOrStdout()
	if team == "" {
		shown, err := client.Fetched(s.GetInstanceUsageWithResponse(ctx))
		if err != nil {
			return err
		}
		if output.Value == "json" {
			return cli.PrintJSON(w, shown)
		}
		return printUsage(w, instanceUsage{InstanceUsage: *shown}, true)
	}
	repositories := []api.RepositoryUsage{}
	for one, err := range client.All(func(limit *api.Limit, after *api.After) (*apiclient.ListTeamUsageResponse, error) {
		return s.ListTeamUsageWithResponse(ctx, team, &api.ListTeamUsageParams{Limit: limit, After: after})
	}) {
		if err != nil {
			return err
		}
		repositories = append(repositories, one)
	}
	if output.Value == "json" {
		return cli.PrintJSON(w, repositories)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "REPOSITORY\tLOGICAL\tWAITING\tBLOBS\tMANIFESTS")
	for _, u := range repositories {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\n", u.Repository, oci.ShowBytes(u.LogicalBytes), oci.ShowBytes(u.WaitingBytes), u.Blobs, u.Manifests)
	}
	return t.Flush()
}

// instanceUsage is the API's, with the repositories of all teams, which only a command that looks by
// itself has.
type instanceUsage struct {
	api.InstanceUsage
	Repositories []repositoryUsage `json:"repositories"`
}

// repositoryUsage is the API's, with what a server does not tell.
type repositoryUsage struct {
	api.RepositoryUsage
	UniqueBytes int64 `json:"unique_bytes"`
	SharedBytes int64 `json:"shared_bytes"`
}

func usageOf(u registry.Usage) instanceUsage {
	shown := instanceUsage{InstanceUsage: reports.InstanceUsage(u), Repositories: []repositoryUsage{}}
	for _, r := range u.Repositories {
		shown.Repositories = append(shown.Repositories, repositoryUsage{reports.RepositoryUsage(r), r.Unique, r.Shared})
	}
	return shown
}

func printUsage(w io.Writer, u instanceUsage, teamsOnly bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	row := func(name string, logical, unique, shared int64, waiting string, blobs, manifests int64) {
		line(name, oci.ShowBytes(logical), oci.ShowBytes(unique), oci.ShowBytes(shared), waiting, fmt.Sprint(blobs), fmt.Sprint(manifests))
	}
	line("TEAM", "LOGICAL", "UNIQUE", "SHARED", "WAITING", "BLOBS", "MANIFESTS")
	waiting := map[string]int64{}
	for _, r := range u.Repositories {
		waiting[r.Team] += r.WaitingBytes
	}
	for _, one := range u.Teams {
		show := oci.ShowBytes(waiting[one.Team])
		if u.Repositories == nil {
			show = "-" // a server measures it for one team only
		}
		row(one.Team, one.LogicalBytes, one.UniqueBytes, one.SharedBytes, show, one.Blobs, one.Manifests)
	}
	if !teamsOnly {
		line()
		line("REPOSITORY", "LOGICAL", "UNIQUE", "SHARED", "WAITING", "BLOBS", "MANIFESTS")
		for _, one := range u.Repositories {
			row(one.Repository, one.LogicalBytes, one.UniqueBytes, one.SharedBytes, oci.ShowBytes(one.WaitingBytes), one.Blobs, one.Manifests)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	s := u.Stored
	_, err := fmt.Fprintf(w, "\nStored: %s in %s, of them %s in no repository; %s about to be removed; %s of manifests; %s of unfinished uploads\n",
		oci.ShowBytes(s.Bytes), cli.Count(int(s.Blobs), "blob"), oci.ShowBytes(s.UnlinkedBytes), oci.ShowBytes(s.RemovingBytes), oci.ShowBytes(s.ManifestBytes), oci.ShowBytes(s.UploadingBytes))
	if err == nil && s.MissingBlobs > 0 {
		_, err = fmt.Fprintf(w, "The bytes of %s are known to be lost; berth check lists them.\n", cli.Count(int(s.MissingBlobs), "blob"))
	}
	return err
}
