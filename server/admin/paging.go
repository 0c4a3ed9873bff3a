package admin

import (
	"context"
	"fmt"

	"berth/api"
)

// page cuts a list that was asked for with one item more than the limit, and
// gives the key to go on from, and the Link header that says the same.
func page[T any](ctx context.Context, items []T, limit int, key func(T) string) (cut []T, next *api.Next, link *string) {
	if len(items) <= limit {
		return items, nil, nil
	}
	items = items[:limit]
	next, link = nextPage(ctx, key(items[limit-1]))
	return items, next, link
}

// nextPage is the key to go on from, and the Link header that says the same.
func nextPage(ctx context.Context, after string) (*api.Next, *string) {
	u := *callOf(ctx).url
	query := u.Query()
	query.Set("after", after)
	u.RawQuery = query.Encode()
	header := fmt.Sprintf("<%s>; rel=\"next\"", u.RequestURI())
	return &after, &header
}

// bounds are the limit and the key of a request for a list. The limit is set,
// for validate fills in the default.
func bounds(limit *api.Limit, after *api.After) (int, string) {
	n, key := defaultLimit, ""
	if limit != nil {
		n = *limit
	}
	if after != nil {
		key = *after
	}
	return n, key
}

const defaultLimit = 100

// each converts a list.
func each[A, B any](list []A, convert func(A) B) []B {
	out := make([]B, len(list))
	for i, v := range list {
		out[i] = convert(v)
	}
	return out
}
