package admin

import (
	"context"
	"strconv"

	"berth/api"
	"berth/metadata"
	"berth/oci"
)

func tagOf(t metadata.Tag) api.Tag {
	return api.Tag{
		Name: t.Name, Digest: t.Digest.String(), MediaType: t.MediaType, Size: t.Size, Mode: api.TagMode(t.Mode),
		CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt, UpdatedBy: t.UpdatedBy,
		Claims: provenance(t.Claims),
	}
}

// provenance is what is shown of an identity provider's claims; none are left out.
func provenance(claims map[string]string) *api.Provenance {
	if len(claims) == 0 {
		return nil
	}
	shown := api.Provenance(claims)
	return &shown
}

// ListTags lists a repository's tags.
func (h *Admin) ListTags(ctx context.Context, r api.ListTagsRequestObject) (api.ListTagsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	tags, err := h.Registry.Tags(ctx, r.Repository, after, limit+1)
	if err != nil {
		return nil, err
	}
	tags, next, link := page(ctx, tags, limit, func(t metadata.Tag) string { return t.Name })
	return api.ListTags200JSONResponse{
		Body:    api.TagList{Items: each(tags, tagOf), Next: next},
		Headers: api.ListTags200ResponseHeaders{Link: link},
	}, nil
}

// GetTag shows a tag.
func (h *Admin) GetTag(ctx context.Context, r api.GetTagRequestObject) (api.GetTagResponseObject, error) {
	if _, err := oci.ParseTag(r.Tag); err != nil {
		return nil, err
	}
	tag, err := h.Registry.Tag(ctx, r.Repository, r.Tag)
	if err != nil {
		return nil, err
	}
	return api.GetTag200JSONResponse(tagOf(tag)), nil
}

// DeleteTag removes a tag, on record.
func (h *Admin) DeleteTag(ctx context.Context, r api.DeleteTagRequestObject) (api.DeleteTagResponseObject, error) {
	if _, err := oci.ParseTag(r.Tag); err != nil {
		return nil, err
	}
	if err := h.Registry.DeleteTag(ctx, callOf(ctx).actor, r.Repository, r.Tag); err != nil {
		return nil, err
	}
	return api.DeleteTag204Response{}, nil
}

// ListTagHistory shows what happened to a tag, which may be gone.
func (h *Admin) ListTagHistory(ctx context.Context, r api.ListTagHistoryRequestObject) (api.ListTagHistoryResponseObject, error) {
	if _, err := oci.ParseTag(r.Tag); err != nil {
		return nil, err
	}
	limit, after := bounds(r.Params.Limit, r.Params.After)
	var before int64
	if after != "" {
		var err error
		if before, err = strconv.ParseInt(after, 10, 64); err != nil || before <= 0 {
			return nil, oci.Errorf(oci.CodeInvalid, "the parameter \"after\" is not the \"next\" of a page of a tag's history")
		}
	}
	events, err := h.Registry.TagHistory(ctx, r.Repository, r.Tag, before, limit+1)
	if err != nil {
		return nil, err
	}
	events, next, link := page(ctx, events, limit, func(e metadata.TagEvent) string { return strconv.FormatInt(e.ID, 10) })
	items := each(events, func(e metadata.TagEvent) api.TagEvent {
		event := api.TagEvent{Id: e.ID, Action: api.TagEventAction(e.Action), Digest: e.Digest.String(), Actor: e.Actor, At: e.At, Claims: provenance(e.Claims)}
		if e.Previous != "" {
			previous := e.Previous.String()
			event.Previous = &previous
		}
		return event
	})
	return api.ListTagHistory200JSONResponse{
		Body:    api.TagEventList{Items: items, Next: next},
		Headers: api.ListTagHistory200ResponseHeaders{Link: link},
	}, nil
}
