package reports

import (
	"time"

	"berth/api"
	"berth/metadata"
	"berth/registry/collect"
)

// Collector is how the collector is doing.
func Collector(s collect.Status) api.Collector {
	shown := api.Collector{
		GcGrace: s.Rules.Grace.String(), UntaggedTtl: s.Rules.UntaggedTTL.String(),
		Queues: each(s.Queues, func(q metadata.Queue) api.CollectorQueue {
			return api.CollectorQueue{Name: q.Name, Length: q.Length, OldestSeconds: int64(q.Oldest / time.Second)}
		}),
	}
	if s.Last != nil {
		last := CollectorReport(s.Last.Report)
		shown.Last, shown.LastAt = &last, &s.Last.At
	}
	return shown
}

// CollectorReport is what a run of the collector did or would do, with all that it names.
func CollectorReport(r collect.Report) api.CollectorReport {
	return api.CollectorReport{
		Manifests: r.Manifests, Links: r.Links, Blobs: r.Blobs, BlobBytes: r.BlobBytes, Objects: r.Objects, FreedBytes: r.Freed,
		Items: some(r.Items, func(c metadata.Collected) api.CollectorItem {
			return api.CollectorItem{
				Kind: c.Kind, Repository: optional(c.Repository), Digest: c.Digest.String(), Size: c.Size, Since: c.Since,
				Reason: optional(c.Reason),
			}
		}),
		Truncated: optional(r.Truncated), More: optional(r.More),
	}
}
