package reports

import (
	"berth/api"
	"berth/registry/collect"
)

// Check is a check that a server does in the background.
func Check(j *collect.CheckJob) api.Check {
	return api.Check{
		Id: j.ID, State: j.State, StartedBy: j.StartedBy, UpdatedAt: j.UpdatedAt, Error: optional(j.Error),
		Rehash: j.Rehash, Repair: j.Repair, Rate: j.Rate, HashRate: j.HashRate,
		Report: CheckReport(j.Report),
	}
}

// CheckReport is what a check found, with all problems that it lists.
func CheckReport(r collect.CheckReport) api.CheckReport {
	return api.CheckReport{
		StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		Blobs: r.Blobs, Objects: r.Objects, Manifests: r.Manifests, BytesRead: r.Bytes,
		Found: r.Found, Problems: each(r.Problems, problem), Open: r.Open, Progress: progress(r.Progress),
	}
}

func problem(p collect.Problem) api.CheckProblem {
	return api.CheckProblem{
		Kind: p.Kind, Digest: optional(p.Digest.String()), Key: optional(p.Key), Size: optional(p.Size),
		Repositories: some(p.Repositories, same), Detail: p.Detail, Repaired: p.Repaired,
	}
}
