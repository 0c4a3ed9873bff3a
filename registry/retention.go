package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// RetentionReport is what retention did in a repository, or would do.
type RetentionReport struct {
	Repository string
	Level      string // whose rules hold: repository, team, or instance for none
	Kept       int
	Deleted    int
	// Tags are those of the page that was asked for, each with its reasons.
	Tags []metadata.RetentionDecision
	// Next is what to go on after, or "" at the end.
	Next string
	// More: the run has ended at its limit; there is more to delete.
	More bool
}

// UndoWindow is how long a deleted tag or manifest can be restored.
func (r *Registry) UndoWindow() time.Duration { return r.o.UndoWindow }

// UntaggedTTL is how long an untagged manifest lives where no policy says otherwise; 0 keeps it.
func (r *Registry) UntaggedTTL() time.Duration { return r.o.UntaggedTTL }

// TeamRetention gives the retention in force for a team. It returns NOT_FOUND.
func (r *Registry) TeamRetention(ctx context.Context, team string) (metadata.Retention, error) {
	held, err := view(ctx, r, func(tx *metadata.Tx) (metadata.Retention, error) { return tx.TeamRetention(ctx, team) })
	return r.inForce(held), err
}

// RepositoryRetention gives the retention in force in a repository. It returns NAME_UNKNOWN.
func (r *Registry) RepositoryRetention(ctx context.Context, repo string) (metadata.Retention, error) {
	held, err := view(ctx, r, func(tx *metadata.Tx) (metadata.Retention, error) { return tx.RepositoryRetention(ctx, repo) })
	return r.inForce(held), err
}

// inForce fills in what only the settings say.
func (r *Registry) inForce(held metadata.Retention) metadata.Retention {
	if held.TTLLevel == instanceLevel {
		held.UntaggedTTL = r.o.UntaggedTTL
	}
	return held
}

// SetTeamRetention gives a team a retention of its own, or with nil takes it away, and gives
// the one that holds then. It returns NOT_FOUND or INVALID.
func (r *Registry) SetTeamRetention(ctx context.Context, by auth.Actor, team string, p *metadata.RetentionPolicy) (held metadata.Retention, err error) {
	e := metadata.Event{Kind: metadata.TeamRetentionSet, Actor: by.Audit, Team: team, Detail: retentionFields(p)}
	if p == nil {
		e.Kind = metadata.TeamRetentionDeleted
	}
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if err := tx.AdoptTeam(ctx, team, by.Audit); err != nil {
			return err
		}
		if err := tx.SetTeamRetention(ctx, team, p, by.Audit.Name); err != nil {
			return err
		}
		if held, err = tx.TeamRetention(ctx, team); err != nil {
			return err
		}
		return tx.Record(ctx, e)
	})
	return r.inForce(held), err
}

// SetRepositoryRetention gives a repository a retention of its own, or with nil its team's,
// and gives the one that holds then. It returns NAME_UNKNOWN or INVALID.
func (r *Registry) SetRepositoryRetention(ctx context.Context, by auth.Actor, repo string, p *metadata.RetentionPolicy) (held metadata.Retention, err error) {
	e := metadata.Event{Kind: metadata.RepositoryRetentionSet, Actor: by.Audit, Repository: repo, Detail: retentionFields(p)}
	if p == nil {
		e.Kind = metadata.RepositoryRetentionDeleted
	}
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if err := tx.SetRepositoryRetention(ctx, repo, p, by.Audit.Name); err != nil {
			return err
		}
		if held, err = tx.RepositoryRetention(ctx, repo); err != nil {
			return err
		}
		return tx.Record(ctx, e)
	})
	return r.inForce(held), err
}

// retentionFields is what the audit log tells of a retention that was set; nil tells nothing.
func retentionFields(p *metadata.RetentionPolicy) map[string]any {
	if p == nil {
		return nil
	}
	asked := map[string]any{}
	if p.UntaggedTTL != nil {
		asked["untagged_ttl"] = p.UntaggedTTL.String()
	}
	if p.Rules != nil {
		rules := []map[string]any{}
		for _, rule := range p.Rules {
			shown := map[string]any{"name": rule.Name}
			if len(rule.Tags) > 0 {
				shown["tags"] = rule.Tags
			}
			if rule.Newest != nil {
				shown["newest"] = *rule.Newest
			}
			if rule.YoungerThan > 0 {
				shown["younger_than"] = rule.YoungerThan.String()
			}
			if rule.PulledWithin > 0 {
				shown["pulled_within"] = rule.PulledWithin.String()
			}
			if rule.DeleteImmutable {
				shown["delete_immutable"] = true
			}
			rules = append(rules, shown)
		}
		asked["rules"] = rules
	}
	return fields(asked)
}

// DryRunRetention tells which tags of a repository go now by its retention rules, or
// by others to try them, and why each other one stays, for a page of at most limit tags behind a
// name. The counts are of all tags, and only made for the first page. It changes nothing.
func (r *Registry) DryRunRetention(ctx context.Context, repo string, try []metadata.RetentionRule, after string, limit int) (report RetentionReport, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) error {
		run, err := tx.RetentionRun(ctx, repo, try)
		if err != nil {
			return err
		}
		report = RetentionReport{Repository: repo, Level: run.Level}
		if report.Tags, err = tx.DecideRetention(ctx, run, after, limit+1); err != nil {
			return err
		}
		if len(report.Tags) > limit {
			report.Tags = report.Tags[:limit]
			report.Next = report.Tags[limit-1].Tag
		}
		if after != "" {
			return nil
		}
		return r.eachDecision(ctx, tx, run, func(page []metadata.RetentionDecision) error {
			report.count(page)
			return nil
		})
	})
	return report, err
}

func (g *RetentionReport) count(page []metadata.RetentionDecision) {
	for _, d := range page {
		if d.Keep {
			g.Kept++
		} else {
			g.Deleted++
		}
	}
}

// eachDecision gives all decisions of a run, page by page, without what only people want to know.
func (r *Registry) eachDecision(ctx context.Context, tx *metadata.Tx, run *metadata.RetentionRun, f func([]metadata.RetentionDecision) error) error {
	for after := ""; ; {
		page, err := tx.DecideRetentionBriefly(ctx, run, after, metadata.RetentionPage)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := f(page); err != nil {
			return err
		}
		after = page[len(page)-1].Tag
	}
}

var errLimit = errors.New("the run has reached its limit")

// RunRetentionNow is RunRetention for somebody who asks for it now, which is on record. What it
// deletes is on record as the rules', as what the background job deletes is.
func (r *Registry) RunRetentionNow(ctx context.Context, by auth.Actor, repo string) (RetentionReport, error) {
	err := r.db.Update(ctx, func(tx *metadata.Tx) error {
		return tx.Record(ctx, metadata.Event{Kind: metadata.RetentionAsked, Actor: by.Audit, Repository: repo})
	})
	if err != nil {
		return RetentionReport{Repository: repo}, err
	}
	return r.RunRetention(ctx, repo, RetentionLimit)
}

// RunRetention deletes what DryRunRetention says at this moment, at most about limit tags, in
// small transactions. A tag that is pushed meanwhile stays; so does one whose policy forbids it then. Several may
// run at once. The report beside an error is what was done before it.
func (r *Registry) RunRetention(ctx context.Context, repo string, limit int) (report RetentionReport, err error) {
	report.Repository = repo
	err = r.db.View(ctx, func(tx *metadata.Tx) error {
		run, err := tx.RetentionRun(ctx, repo, nil)
		if err != nil {
			return err
		}
		report.Level = run.Level
		return r.eachDecision(ctx, tx, run, func(page []metadata.RetentionDecision) error {
			if report.Deleted >= limit {
				return errLimit
			}
			// Most pages keep all, and need no transaction that is synced for nothing.
			if !slices.ContainsFunc(page, func(d metadata.RetentionDecision) bool { return !d.Keep }) {
				report.Kept += len(page)
				return nil
			}
			var deleted []string
			err := r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
				if deleted, err = tx.DeleteByRetention(ctx, run, page); err != nil || len(deleted) == 0 {
					return err
				}
				return tx.Record(ctx, metadata.Event{Kind: metadata.RetentionApplied, Actor: auth.Operator("retention").Audit, Repository: repo, Tags: deleted,
					Detail: map[string]any{"level": run.Level}})
			})
			report.Kept += len(page) - len(deleted)
			report.Deleted += len(deleted)
			if len(deleted) > 0 {
				r.o.Collected(metadata.CollectedTag, len(deleted), 0)
			}
			return err
		})
	})
	switch {
	case errors.Is(err, errLimit), errors.Is(err, metadata.ErrRetentionChanged):
		report.More, err = true, nil
	case err != nil:
		err = fmt.Errorf("applying retention to %s: %w", repo, err)
	}
	return report, err
}

// RetentionLimit bounds what one pass deletes, in tags.
const RetentionLimit = 10_000

// ApplyRetention applies the rules that have been due longest to one repository, and returns how
// many things it did; 0 means that nothing is due. It is made to be called again and again by one
// process at a time. interval is the time between two runs of the same rules. A repository whose
// run fails is passed over until the next one.
func (r *Registry) ApplyRetention(ctx context.Context, interval time.Duration) (int, error) {
	var due metadata.DueRetention
	var ok bool
	err := r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		due, ok, err = tx.DueRetention(ctx)
		return err
	})
	if err != nil || !ok {
		return 0, err
	}
	done := 1
	var failed error
	if due.Repository != "" {
		var report RetentionReport
		report, failed = r.RunRetention(ctx, due.Repository, RetentionLimit)
		done += report.Deleted
		if errors.Is(failed, oci.ErrNameUnknown) { // it was deleted
			failed = nil
		}
		if ctx.Err() != nil || report.More {
			return done, failed
		}
		if report.Deleted > 0 {
			r.o.Logger.InfoContext(ctx, "retention", "repository", report.Repository, "deleted", report.Deleted, "kept", report.Kept)
		}
	}
	err = r.db.Update(ctx, func(tx *metadata.Tx) error { return tx.AdvanceRetention(ctx, due, tx.Now().Add(interval)) })
	return done, errors.Join(failed, err)
}
