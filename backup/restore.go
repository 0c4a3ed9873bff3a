package backup

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"berth/metadata"
	"berth/registry/collect"
)

// opened is a backup that is looked at: a copy of its database, which may be
// migrated, and its store. The place itself is not written to.
func opened(ctx context.Context, place Place, o Options, run func(Manifest, Side) error) error {
	m, err := ReadManifest(ctx, place)
	if err != nil {
		return err
	}
	if err := o.fill(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.Work, "opened-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, workDB)
	if err := fetch(ctx, place, m.Database, path); err != nil {
		return err
	}
	return withDatabase(ctx, path, o, func(db *metadata.DB) error {
		return run(m, Side{DB: db, Store: place})
	})
}

// Restore makes a registry of the backup at a place: to has to be a migrated,
// empty database with its store. Every byte is hashed on the way. One that was killed is
// made again, and goes on. When it returns nil, the registry can be served.
func Restore(ctx context.Context, place Place, to Side, o Options) (m Manifest, report TransferReport, err error) {
	err = opened(ctx, place, o, func(read Manifest, from Side) (err error) {
		m = read
		report, err = Transfer(ctx, from, to, o.transfer("a backup of "+m.Source))
		return err
	})
	return m, report, err
}

// Verified is what Verify found. Its JSON is part of the notes of jobs.
type Verified struct {
	Backup Manifest            `json:"backup"`
	Check  collect.CheckReport `json:"check"`
	// Problems are sentences about the database; bytes and manifests are in Check.
	Problems []string `json:"problems"`
	// Bad counts what is wrong: problems, and blobs that are lost or damaged
	// beside those that were lost when the backup was made.
	Bad int64 `json:"bad"`
}

// Verify reads a whole backup and writes nothing to its place: that the
// database is the one that the manifest names and is whole, that every row's
// references are there, that the tables have as many rows as were copied, and
// that every blob and manifest has the digest that it is named by.
func Verify(ctx context.Context, place Place, o Options) (v Verified, err error) {
	v.Problems = []string{}
	err = opened(ctx, place, o, func(m Manifest, side Side) error {
		v.Backup = m
		if err := side.DB.Integrity(ctx); err != nil {
			v.Problems = append(v.Problems, err.Error())
		}
		counts, err := side.DB.CountRows(ctx)
		if err != nil {
			return err
		}
		_, schema, err := side.DB.SchemaVersion(ctx)
		if err != nil {
			return err
		}
		for _, table := range slices.Sorted(maps.Keys(counts)) {
			// Migrations of an older backup's copy may have added rows.
			if m.Schema == schema && counts[table] != m.Rows[table] {
				v.Problems = append(v.Problems, fmt.Sprintf("the table %s has %d rows, backup.json says %d", table, counts[table], m.Rows[table]))
			}
		}
		if m.Schema > schema {
			v.Problems = append(v.Problems, fmt.Sprintf("the database has the schema %d, backup.json says %d", schema, m.Schema))
		}
		if m.Blobs+m.Lost != m.Rows["blobs"] {
			v.Problems = append(v.Problems, fmt.Sprintf("backup.json counts %d blobs with bytes and %d without, of %d", m.Blobs, m.Lost, m.Rows["blobs"]))
		}
		v.Check, err = collect.New(side.DB, side.Store, collect.Options{Logger: o.Logger}).Check(ctx, collect.CheckRun{Rehash: true, RowsOnly: true, HashRate: o.Rate, Progress: o.CheckProgress})
		v.Bad = int64(len(v.Problems)) + max(0, v.Check.Open-m.Lost)
		return err
	})
	return v, err
}
