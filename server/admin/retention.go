package admin

import (
	"context"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/api"
	"berth/api/reports"
	"berth/metadata"
	"berth/oci"
)

// durationOf reads a duration of a body; nil is 0.
func durationOf(field string, d *api.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	v, err := api.ParseDuration(*d)
	if err != nil {
		return 0, oci.Errorf(oci.CodeInvalid, "the field %s is %.40q: use a duration such as 90m, 24h or 10d", field, *d)
	}
	return v, nil
}

// conditionOf reads the time of a rule's condition. 0s is refused: it would be no condition, and the rule
// would keep all.
func conditionOf(field string, d *api.Duration) (time.Duration, error) {
	v, err := durationOf(field, d)
	if err == nil && d != nil && v <= 0 {
		err = oci.Errorf(oci.CodeInvalid, "the field %s is %.40q: use a duration above 0s, or leave it out; newest 0 keeps none", field, *d)
	}
	return v, err
}

func rulesOf(list []api.RetentionRule) ([]metadata.RetentionRule, error) {
	rules := make([]metadata.RetentionRule, len(list))
	for i, r := range list {
		rule := metadata.RetentionRule{Name: r.Name, Newest: r.Newest}
		if r.Tags != nil {
			rule.Tags = *r.Tags
		}
		if r.DeleteImmutable != nil {
			rule.DeleteImmutable = *r.DeleteImmutable
		}
		var err error
		if rule.YoungerThan, err = conditionOf("younger_than", r.YoungerThan); err != nil {
			return nil, err
		}
		if rule.PulledWithin, err = conditionOf("pulled_within", r.PulledWithin); err != nil {
			return nil, err
		}
		rules[i] = rule
	}
	return rules, nil
}

func ruleOf(r metadata.RetentionRule) api.RetentionRule {
	shown := api.RetentionRule{Name: r.Name, Newest: r.Newest}
	if len(r.Tags) > 0 {
		shown.Tags = &r.Tags
	}
	if r.DeleteImmutable {
		shown.DeleteImmutable = &r.DeleteImmutable
	}
	shown.YoungerThan, shown.PulledWithin = shownDuration(r.YoungerThan), shownDuration(r.PulledWithin)
	return shown
}

// shownDuration is nil for 0.
func shownDuration(d time.Duration) *api.Duration {
	if d == 0 {
		return nil
	}
	text := d.String()
	return &text
}

func newRetention(body *api.RetentionPolicy) (*metadata.RetentionPolicy, error) {
	p := &metadata.RetentionPolicy{}
	if body.Rules != nil {
		rules, err := rulesOf(*body.Rules)
		if err != nil {
			return nil, err
		}
		p.Rules = rules
	}
	if body.UntaggedTtl != nil {
		ttl, err := durationOf("untagged_ttl", body.UntaggedTtl)
		if err != nil {
			return nil, err
		}
		p.UntaggedTTL = &ttl
	}
	return p, nil
}

func retentionOf(r metadata.Retention) api.EffectiveRetention {
	return api.EffectiveRetention{
		Rules: each(r.Rules, ruleOf), RulesLevel: api.RetentionLevel(r.RulesLevel),
		UntaggedTtl: r.UntaggedTTL.String(), UntaggedTtlLevel: api.RetentionLevel(r.TTLLevel), LastRunAt: r.LastRun,
	}
}

// GetTeamRetention shows the retention in force for a team.
func (h *Admin) GetTeamRetention(ctx context.Context, r api.GetTeamRetentionRequestObject) (api.GetTeamRetentionResponseObject, error) {
	held, err := h.Registry.TeamRetention(ctx, r.Team)
	if err != nil {
		return nil, err
	}
	return api.GetTeamRetention200JSONResponse(retentionOf(held)), nil
}

// SetTeamRetention gives a team a retention of its own.
func (h *Admin) SetTeamRetention(ctx context.Context, r api.SetTeamRetentionRequestObject) (api.SetTeamRetentionResponseObject, error) {
	policy, err := newRetention(r.Body)
	if err != nil {
		return nil, err
	}
	held, err := h.Registry.SetTeamRetention(ctx, callOf(ctx).actor, r.Team, policy)
	if err != nil {
		return nil, err
	}
	return api.SetTeamRetention200JSONResponse(retentionOf(held)), nil
}

// DeleteTeamRetention removes a team's own retention.
func (h *Admin) DeleteTeamRetention(ctx context.Context, r api.DeleteTeamRetentionRequestObject) (api.DeleteTeamRetentionResponseObject, error) {
	if _, err := h.Registry.SetTeamRetention(ctx, callOf(ctx).actor, r.Team, nil); err != nil {
		return nil, err
	}
	return api.DeleteTeamRetention204Response{}, nil
}

// GetRepositoryRetention shows the retention in force in a repository.
func (h *Admin) GetRepositoryRetention(ctx context.Context, r api.GetRepositoryRetentionRequestObject) (api.GetRepositoryRetentionResponseObject, error) {
	held, err := h.Registry.RepositoryRetention(ctx, r.Repository)
	if err != nil {
		return nil, err
	}
	return api.GetRepositoryRetention200JSONResponse(retentionOf(held)), nil
}

// SetRepositoryRetention gives a repository a retention of its own.
func (h *Admin) SetRepositoryRetention(ctx context.Context, r api.SetRepositoryRetentionRequestObject) (api.SetRepositoryRetentionResponseObject, error) {
	policy, err := newRetention(r.Body)
	if err != nil {
		return nil, err
	}
	held, err := h.Registry.SetRepositoryRetention(ctx, callOf(ctx).actor, r.Repository, policy)
	if err != nil {
		return nil, err
	}
	return api.SetRepositoryRetention200JSONResponse(retentionOf(held)), nil
}

// DeleteRepositoryRetention lets a repository follow its team.
func (h *Admin) DeleteRepositoryRetention(ctx context.Context, r api.DeleteRepositoryRetentionRequestObject) (api.DeleteRepositoryRetentionResponseObject, error) {
	if _, err := h.Registry.SetRepositoryRetention(ctx, callOf(ctx).actor, r.Repository, nil); err != nil {
		return nil, err
	}
	return api.DeleteRepositoryRetention204Response{}, nil
}

func decisionOf(d metadata.RetentionDecision) api.RetentionDecision {
	shown := api.RetentionDecision{
		Tag: d.Tag, Digest: d.Digest.String(), PushedAt: d.PushedAt, PulledAt: d.PulledAt, Keep: d.Keep,
		Reasons: reports.RetentionReasons(d.Reasons),
	}
	if d.Rule != "" {
		shown.Rule = &d.Rule
	}
	return shown
}

// DryRunRetention says what retention would do now.
func (h *Admin) DryRunRetention(ctx context.Context, r api.DryRunRetentionRequestObject) (api.DryRunRetentionResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	var try []metadata.RetentionRule
	if r.Body.Rules != nil {
		var err error
		if try, err = rulesOf(*r.Body.Rules); err != nil {
			return nil, err
		}
	}
	report, err := h.Registry.DryRunRetention(ctx, r.Repository, try, after, limit+1)
	if err != nil {
		return nil, err
	}
	tags, next, link := page(ctx, report.Tags, limit, func(d metadata.RetentionDecision) string { return d.Tag })
	shown := api.RetentionReport{Level: api.RetentionLevel(report.Level), Items: each(tags, decisionOf), Next: next}
	if after == "" {
		shown.Kept, shown.Deleted = &report.Kept, &report.Deleted
	}
	return api.DryRunRetention200JSONResponse{Body: shown, Headers: api.DryRunRetention200ResponseHeaders{Link: link}}, nil
}

// RunRetention applies a repository's retention now. Each part of it is in the
// audit log, as those of the background job are.
func (h *Admin) RunRetention(ctx context.Context, r api.RunRetentionRequestObject) (api.RunRetentionResponseObject, error) {
	report, err := h.Registry.RunRetentionNow(ctx, callOf(ctx).actor, r.Repository)
	if err != nil {
		return nil, err
	}
	return api.RunRetention200JSONResponse{Level: api.RetentionLevel(report.Level), Kept: report.Kept, Deleted: report.Deleted, More: report.More}, nil
}

// beforeOf reads the key of a list whose newest items come first.
func beforeOf(after string) (int64, error) {
	if after == "" {
		return 0, nil
	}
	before, err := strconv.ParseInt(after, 10, 64)
	if err != nil || before <= 0 {
		return 0, oci.Errorf(oci.CodeInvalid, "the parameter \"after\" is not the \"next\" of a page of this list")
	}
	return before, nil
}

// ListDeletedTags lists what can be restored of a repository's tags.
func (h *Admin) ListDeletedTags(ctx context.Context, r api.ListDeletedTagsRequestObject) (api.ListDeletedTagsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	before, err := beforeOf(after)
	if err != nil {
		return nil, err
	}
	tags, err := h.Registry.DeletedTags(ctx, r.Repository, before, limit+1)
	if err != nil {
		return nil, err
	}
	tags, next, link := page(ctx, tags, limit, func(t metadata.DeletedTag) string { return strconv.FormatInt(t.ID, 10) })
	return api.ListDeletedTags200JSONResponse{
		Body: api.DeletedTagList{Next: next, Items: each(tags, func(t metadata.DeletedTag) api.DeletedTag {
			return api.DeletedTag{Name: t.Name, Digest: t.Digest.String(), DeletedAt: t.DeletedAt, DeletedBy: t.DeletedBy,
				Until: t.DeletedAt.Add(h.Registry.UndoWindow())}
		})},
		Headers: api.ListDeletedTags200ResponseHeaders{Link: link},
	}, nil
}

// ListDeletedManifests lists what can be restored of a repository's manifests.
func (h *Admin) ListDeletedManifests(ctx context.Context, r api.ListDeletedManifestsRequestObject) (api.ListDeletedManifestsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	before, err := beforeOf(after)
	if err != nil {
		return nil, err
	}
	manifests, err := h.Registry.DeletedManifests(ctx, r.Repository, before, limit+1)
	if err != nil {
		return nil, err
	}
	manifests, next, link := page(ctx, manifests, limit, func(m metadata.DeletedManifest) string { return strconv.FormatInt(m.ID, 10) })
	return api.ListDeletedManifests200JSONResponse{
		Body: api.DeletedManifestList{Next: next, Items: each(manifests, func(m metadata.DeletedManifest) api.DeletedManifest {
			return api.DeletedManifest{Digest: m.Digest.String(), MediaType: m.MediaType, Size: m.Size, Tags: m.Tags,
				DeletedAt: m.DeletedAt, DeletedBy: m.DeletedBy, Until: m.DeletedAt.Add(h.Registry.UndoWindow())}
		})},
		Headers: api.ListDeletedManifests200ResponseHeaders{Link: link},
	}, nil
}

// RestoreDeleted undoes a deletion.
func (h *Admin) RestoreDeleted(ctx context.Context, r api.RestoreDeletedRequestObject) (api.RestoreDeletedResponseObject, error) {
	var tag string
	var d digest.Digest
	var err error
	if r.Body.Tag != nil {
		if tag, err = oci.ParseTag(*r.Body.Tag); err != nil {
			return nil, err
		}
	}
	if r.Body.Digest != nil {
		if d, err = oci.ParseDigest(*r.Body.Digest); err != nil {
			return nil, err
		}
	}
	if tag == "" && d == "" {
		return nil, oci.Errorf(oci.CodeInvalid, "say what to restore: a tag, a digest, or both")
	}
	restored, err := h.Registry.Restore(ctx, callOf(ctx).actor, r.Repository, tag, d)
	if err != nil {
		return nil, err
	}
	return api.RestoreDeleted200JSONResponse{Digest: restored.Digest.String(), Manifest: restored.Manifest,
		Tags: append([]string{}, restored.Tags...), Taken: append([]string{}, restored.Taken...)}, nil
}
