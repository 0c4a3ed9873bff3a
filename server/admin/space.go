package admin

import (
	"context"
	"time"

	"berth/api"
	"berth/api/reports"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"
)

// collectLimit is how long one call of the collector works: less than clients
// and proxies wait.
const collectLimit = 20 * time.Second

// maxItems bounds the candidates that a dry run names.
const maxItems = 1000

// GetCollector shows the collector's rules, queues and last collection.
func (h *Admin) GetCollector(ctx context.Context, _ api.GetCollectorRequestObject) (api.GetCollectorResponseObject, error) {
	s, err := h.Collector.Status(ctx)
	if err != nil {
		return nil, err
	}
	return api.GetCollector200JSONResponse(reports.Collector(s)), nil
}

// RunCollector collects for a while, or says what would go.
func (h *Admin) RunCollector(ctx context.Context, r api.RunCollectorRequestObject) (api.RunCollectorResponseObject, error) {
	run := h.Collector.DefaultRun()
	run.Limit = collectLimit
	for _, d := range []struct {
		name string
		text *string
		into *time.Duration
	}{{"grace", r.Body.Grace, &run.Grace}, {"untagged_ttl", r.Body.UntaggedTtl, &run.UntaggedTTL}, {"undo_window", r.Body.UndoWindow, &run.UndoWindow}} {
		if d.text == nil {
			continue
		}
		value, err := api.ParseDuration(*d.text)
		if err != nil || value < 0 {
			return nil, oci.Errorf(oci.CodeInvalid, "%s is %.40q: want a duration such as 24h, 10d or 0s", d.name, *d.text)
		}
		*d.into = value
	}
	if r.Body.DryRun != nil && *r.Body.DryRun {
		report, err := h.Collector.DryRun(ctx, run)
		if err != nil {
			return nil, err
		}
		return collectorReport(report), nil
	}
	report, err := h.Collector.CollectNow(ctx, callOf(ctx).actor, run)
	if err != nil {
		return nil, err
	}
	return collectorReport(report), nil
}

func collectorReport(report collect.Report) api.RunCollectorResponseObject {
	if len(report.Items) > maxItems {
		report.Items, report.Truncated = report.Items[:maxItems], true
	}
	return api.RunCollector200JSONResponse(reports.CollectorReport(report))
}

// GetCheck shows the check that runs, or the last one.
func (h *Admin) GetCheck(ctx context.Context, _ api.GetCheckRequestObject) (api.GetCheckResponseObject, error) {
	job, err := h.Checks.Current(ctx)
	if err != nil {
		return nil, err
	}
	if job == nil {
		return nil, oci.Errorf(oci.CodeNotFound, "no check was started within three months: POST /instance/check, or berth check, starts one")
	}
	return api.GetCheck200JSONResponse(reports.Check(job)), nil
}

// StartCheck starts a check in the background.
func (h *Admin) StartCheck(ctx context.Context, r api.StartCheckRequestObject) (api.StartCheckResponseObject, error) {
	run := collect.CheckRun{Rate: 500, HashRate: 64 << 20}
	if b := r.Body; b != nil {
		run.Rehash, run.Repair = b.Rehash != nil && *b.Rehash, b.Repair != nil && *b.Repair
		if b.Rate != nil {
			run.Rate = float64(*b.Rate)
		}
		if b.HashRate != nil {
			run.HashRate = float64(*b.HashRate)
		}
	}
	job, err := h.Checks.Start(ctx, callOf(ctx).actor, run)
	if err != nil {
		return nil, err
	}
	return api.StartCheck202JSONResponse(reports.Check(job)), nil
}

// CancelCheck ends the check that runs.
func (h *Admin) CancelCheck(ctx context.Context, _ api.CancelCheckRequestObject) (api.CancelCheckResponseObject, error) {
	if err := h.Checks.Cancel(ctx, callOf(ctx).actor); err != nil {
		return nil, err
	}
	return api.CancelCheck204Response{}, nil
}

// GetInstanceUsage measures the instance and its teams.
func (h *Admin) GetInstanceUsage(ctx context.Context, _ api.GetInstanceUsageRequestObject) (api.GetInstanceUsageResponseObject, error) {
	usage, err := h.Registry.TeamsUsage(ctx)
	if err != nil {
		return nil, err
	}
	return api.GetInstanceUsage200JSONResponse(reports.InstanceUsage(usage)), nil
}

// ListTeamUsage measures the repositories of a team.
func (h *Admin) ListTeamUsage(ctx context.Context, r api.ListTeamUsageRequestObject) (api.ListTeamUsageResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	usage, err := h.Registry.UsageOfTeam(ctx, r.Team, after, limit+1)
	if err != nil {
		return nil, err
	}
	usage, next, link := page(ctx, usage, limit, func(u metadata.Usage) string { return u.Repository })
	return api.ListTeamUsage200JSONResponse{
		Body:    api.RepositoryUsageList{Items: each(usage, reports.RepositoryUsage), Next: next},
		Headers: api.ListTeamUsage200ResponseHeaders{Link: link},
	}, nil
}

// GetRepositoryUsage measures a repository.
func (h *Admin) GetRepositoryUsage(ctx context.Context, r api.GetRepositoryUsageRequestObject) (api.GetRepositoryUsageResponseObject, error) {
	usage, err := h.Registry.UsageOfRepository(ctx, r.Repository)
	if err != nil {
		return nil, err
	}
	return api.GetRepositoryUsage200JSONResponse(reports.RepositoryUsage(usage)), nil
}

// ExplainDigest says what keeps a digest, in what the caller may pull from.
func (h *Admin) ExplainDigest(ctx context.Context, r api.ExplainDigestRequestObject) (api.ExplainDigestResponseObject, error) {
	d, err := oci.ParseDigest(r.Digest)
	if err != nil {
		return nil, err
	}
	p := callOf(ctx).actor.Principal
	var why collect.Why
	if p.IsAdmin() {
		why, err = h.Collector.Why(ctx, d)
	} else {
		why, err = h.Collector.WhyVisible(ctx, d, func(ctx context.Context, names []string) ([]string, error) {
			decisions, err := h.Policy.ActionsFor(ctx, p, names)
			var seen []string
			for _, name := range names {
				if decisions[name].Actions.Has(auth.Pull) {
					seen = append(seen, name)
				}
			}
			return seen, err
		})
	}
	if err != nil {
		return nil, err
	}
	return api.ExplainDigest200JSONResponse(reports.DigestHolders(why)), nil
}
