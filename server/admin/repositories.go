package admin

import (
	"context"

	"berth/api"
	"berth/metadata"
	"berth/registry"
)

func repositoryOf(r metadata.Repository) api.Repository {
	return api.Repository{Name: r.Name, Team: r.Team, Visibility: api.Visibility(r.Visibility), CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy}
}

// ListRepositories lists what the caller may pull.
func (h *Admin) ListRepositories(ctx context.Context, r api.ListRepositoriesRequestObject) (api.ListRepositoriesResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	viewer, err := h.Policy.Viewer(ctx, callOf(ctx).actor.Principal)
	if err != nil {
		return nil, err
	}
	filter := metadata.RepositoryFilter{Viewer: viewer, After: after, Limit: limit + 1}
	if r.Params.Team != nil {
		filter.Team = *r.Params.Team
	}
	if r.Params.Prefix != nil {
		filter.Prefix = *r.Params.Prefix
	}
	repositories, err := h.Registry.Repositories(ctx, filter)
	if err != nil {
		return nil, err
	}
	repositories, next, link := page(ctx, repositories, limit, func(r metadata.Repository) string { return r.Name })
	return api.ListRepositories200JSONResponse{
		Body:    api.RepositoryList{Items: each(repositories, repositoryOf), Next: next},
		Headers: api.ListRepositories200ResponseHeaders{Link: link},
	}, nil
}

// CreateRepository makes an empty repository, or answers the one that is there.
func (h *Admin) CreateRepository(ctx context.Context, r api.CreateRepositoryRequestObject) (api.CreateRepositoryResponseObject, error) {
	repository, created, err := h.Registry.CreateRepository(ctx, callOf(ctx).actor, r.Repository)
	if err != nil {
		return nil, err
	}
	shown := repositoryOf(repository)
	if !created {
		return api.CreateRepository200JSONResponse{Body: shown, Headers: api.CreateRepository200ResponseHeaders{ETag: etagOf(shown)}}, nil
	}
	return api.CreateRepository201JSONResponse{Body: shown, Headers: api.CreateRepository201ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// GetRepository shows a repository with what it holds. The ETag leaves that
// out: pushes do not change what If-Match protects.
func (h *Admin) GetRepository(ctx context.Context, r api.GetRepositoryRequestObject) (api.GetRepositoryResponseObject, error) {
	repository, stats, err := h.Registry.RepositoryStats(ctx, r.Repository)
	if err != nil {
		return nil, err
	}
	shown := repositoryOf(repository)
	etag := etagOf(shown)
	shown.Tags, shown.Size = &stats.Tags, &stats.Bytes
	return api.GetRepository200JSONResponse{Body: shown, Headers: api.GetRepository200ResponseHeaders{ETag: etag}}, nil
}

// UpdateRepository changes who may pull.
func (h *Admin) UpdateRepository(ctx context.Context, r api.UpdateRepositoryRequestObject) (api.UpdateRepositoryResponseObject, error) {
	repository, err := h.Registry.UpdateRepository(ctx, callOf(ctx).actor, r.Repository, registry.RepositoryChange{
		Visibility: (*string)(r.Body.Visibility), If: matches(r.Params.IfMatch, repositoryOf),
	})
	if err != nil {
		return nil, err
	}
	shown := repositoryOf(repository)
	return api.UpdateRepository200JSONResponse{Body: shown, Headers: api.UpdateRepository200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteRepository removes a repository with all it holds.
func (h *Admin) DeleteRepository(ctx context.Context, r api.DeleteRepositoryRequestObject) (api.DeleteRepositoryResponseObject, error) {
	err := h.Registry.DeleteRepository(ctx, callOf(ctx).actor, r.Repository, matches(r.Params.IfMatch, repositoryOf))
	if err != nil {
		return nil, err
	}
	return api.DeleteRepository204Response{}, nil
}
