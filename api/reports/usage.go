package reports

import (
	"berth/api"
	"berth/metadata"
	"berth/registry"
)

// InstanceUsage is the space that the instance and its teams take. The API has no list of the
// repositories of all teams.
func InstanceUsage(u registry.Usage) api.InstanceUsage {
	return api.InstanceUsage{
		Stored: api.StoredBytes{
			Blobs: u.Stored.Blobs, Bytes: u.Stored.Bytes, UnlinkedBytes: u.Stored.Unlinked, RemovingBytes: u.Stored.Removing,
			MissingBlobs: u.Stored.Missing, ManifestBytes: u.Stored.Manifests, UploadingBytes: u.Stored.Uploading,
		},
		Teams: each(u.Teams, teamUsage),
	}
}

func teamUsage(u metadata.Usage) api.TeamUsage {
	return api.TeamUsage{
		Team: u.Team, Blobs: u.Blobs, Manifests: u.Manifests,
		LogicalBytes: u.Logical, UniqueBytes: u.Unique, SharedBytes: u.Shared,
	}
}

// RepositoryUsage is the space that a repository takes, without what would tell what other teams
// have.
func RepositoryUsage(u metadata.Usage) api.RepositoryUsage {
	return api.RepositoryUsage{
		Team: u.Team, Repository: u.Repository, Blobs: u.Blobs, Manifests: u.Manifests,
		LogicalBytes: u.Logical, WaitingBytes: u.Waiting,
	}
}
