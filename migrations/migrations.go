// Package migrations embeds the SQL that makes and changes the schema: one
// folder per engine, with the same numbers and the same meaning in both. The
// runner is metadata.DB.Migrate. A file that has been released is never changed;
// write the next number.
package migrations

import "embed"

//go:embed postgres/*.sql
var Postgres embed.FS

//go:embed sqlite/*.sql
var SQLite embed.FS
