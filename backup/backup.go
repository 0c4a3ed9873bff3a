// Package backup keeps a copy of a registry at a place of its own, and makes a
// registry of it again.
//
// A backup is itself a registry that nobody serves: an SQLite database with the
// rows, whatever engine they come from, and a store with the bytes. So one
// implementation, [Transfer], makes backups, restores them and moves
// registries; and what checks a registry also checks a backup.
//
// The place is a storage.Store that is also a storage.Filer:
//
//	backup.json            what is there; written last, so without it there is no backup
//	berth-<time>.db        the database that backup.json names, with its digest
//	ab/abcdef...           the bytes, which all backups at the place share
//	work/                  (of a directory) the database from which the next backup goes on
//
// [Relocate] moves the bytes alone, to another store of the same registry. Which rows a copy
// has, and what a blob's row is until its bytes are there, package metadata decides (metadata/transfer.go): that is about
// rows. How rows of any table go from one engine to another is sqldb's.
//
// Start with [Run], [Restore] and transfer.go.
package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"berth/metadata"
	"berth/registry/collect"
	"berth/storage"
)

// Format is the number of the form that this program writes and reads.
const Format = 1

// Names of files at the place and in the work directory.
const (
	manifestName = "backup.json"
	workDB       = "berth.db"
	workLock     = "lock"
	// maxManifest bounds backup.json, in bytes.
	maxManifest = 1 << 20
)

// Manifest is backup.json. Its JSON is also part of the notes of jobs.
type Manifest struct {
	Format    int       `json:"format"`
	CreatedAt time.Time `json:"created_at"` // when the backup was complete; its rows are a little older
	Version   string    `json:"version"`    // of the program
	Schema    int       `json:"schema"`     // of the database
	Source    string    `json:"source"`     // where the registry is, without secrets
	Database  File      `json:"database"`
	// Rows counts the rows by table, Blobs those of them whose bytes are there.
	Rows  map[string]int64 `json:"rows"`
	Blobs int64            `json:"blobs"`
	// Lost counts blobs whose bytes the registry itself did not have.
	Lost int64 `json:"lost"`
}

// File is a file at the place.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Place is where backups are kept.
type Place interface {
	storage.Store
	storage.Filer
}

// Options of a run.
type Options struct {
	// Work is a directory for databases: it has to be private, and keeps from
	// one backup to the next what lets the next one copy only what is new.
	Work string
	// Source says where the registry is, without secrets. Run refuses a place
	// that has the backup of another source.
	Source string
	// Version of the program, for the manifest.
	Version string
	// Rate is how many bytes are read in a second, 0 for no limit.
	Rate float64
	// Progress hears of copying, CheckProgress of verifying; nil for nobody.
	Progress      func(TransferReport)
	CheckProgress func(collect.CheckReport)
	// Logger gets what the report has no place for; nil discards it.
	Logger *slog.Logger
	// Clock gives the time of the backup; nil means time.Now.
	Clock func() time.Time
}

func (o *Options) fill() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if err := os.MkdirAll(o.Work, 0o700); err != nil {
		return fmt.Errorf("making the work directory: %w", err)
	}
	return nil
}

func (o Options) transfer(source string) TransferRun {
	return TransferRun{Source: source, Rate: o.Rate, Progress: o.Progress, Logger: o.Logger}
}

// Run makes a backup of a registry that goes on serving. What the place has
// already, of an earlier backup or one that was killed, is not copied again. Until it
// is complete, the backup before it stays what Restore finds; then the bytes that only the old one had are removed.
//
// A report with Lost blobs is of a backup that is complete but for bytes that the registry itself has lost.
func Run(ctx context.Context, from Side, place Place, o Options) (m Manifest, report TransferReport, err error) {
	if err := o.fill(); err != nil {
		return m, report, err
	}
	unlock, err := lockFile(filepath.Join(o.Work, workLock))
	if err != nil {
		return m, report, err
	}
	defer unlock()
	before, err := ReadManifest(ctx, place)
	if err != nil && !errors.Is(err, ErrNoBackup) {
		return m, report, err
	}
	path := filepath.Join(o.Work, workDB)
	if _, serr := os.Lstat(path); errors.Is(serr, os.ErrNotExist) && err == nil {
		// The work directory was lost or is another machine's: go on from the backup itself.
		if err := fetch(ctx, place, before.Database, path); err != nil {
			return m, report, fmt.Errorf("the backup that is there cannot be gone on from, give another place: %w", err)
		}
	}
	m = Manifest{Format: Format, Version: o.Version, Source: o.Source}
	err = withDatabase(ctx, path, o, func(db *metadata.DB) error {
		if report, err = Transfer(ctx, from, Side{DB: db, Store: place}, o.transfer(o.Source)); err != nil {
			return err
		}
		_, m.Schema, err = db.SchemaVersion(ctx)
		return err
	})
	if err != nil {
		return m, report, err
	}
	m.CreatedAt, m.Rows, m.Blobs, m.Lost = o.Clock().UTC().Truncate(time.Second), report.Rows, report.Blobs, report.Lost
	if err := publish(ctx, place, path, &m); err != nil {
		return m, report, err
	}
	if before.Database.Name != "" && before.Database.Name != m.Database.Name {
		if err := place.DeleteFile(ctx, before.Database.Name); err != nil {
			return m, report, fmt.Errorf("the backup is complete, but the database of the one before could not be removed: %w", err)
		}
	}
	err = withDatabase(ctx, path, o, func(db *metadata.DB) error {
		collector := collect.New(db, place, collect.Options{Logger: o.Logger})
		for {
			n, err := collector.CollectGarbage(ctx)
			if n == 0 || err != nil {
				return err
			}
		}
	})
	if err != nil {
		return m, report, fmt.Errorf("the backup is complete, but bytes of the one before could not be removed: %w", err)
	}
	return m, report, nil
}

// withDatabase opens and migrates an SQLite database, and closes it again, so
// that the file holds everything.
func withDatabase(ctx context.Context, path string, o Options, run func(*metadata.DB) error) error {
	db, err := metadata.Open(ctx, metadata.Options{URL: "sqlite:" + path, Logger: o.Logger})
	if err != nil {
		return fmt.Errorf("the backup's database: %w", err)
	}
	if _, err = db.Migrate(ctx); err != nil {
		err = fmt.Errorf("the backup's database: %w", err)
	} else {
		err = run(db)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("the database %s was not folded into one file: does another program have it open?", path)
	}
	return nil
}

// publish stores the database and then, last, the manifest that names it.
func publish(ctx context.Context, place Place, path string, m *Manifest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if m.Database.Size, err = io.Copy(sum, storage.ContextReader{Context: ctx, Reader: f}); err != nil {
		return err
	}
	m.Database.SHA256 = hex.EncodeToString(sum.Sum(nil))
	m.Database.Name = "berth-" + m.CreatedAt.Format("20060102t150405") + "-" + m.Database.SHA256[:8] + ".db"
	if err := place.PutFile(ctx, m.Database.Name, f); err != nil {
		return err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	aside, err := os.CreateTemp(filepath.Dir(path), "manifest-")
	if err != nil {
		return err
	}
	defer os.Remove(aside.Name())
	defer aside.Close()
	if _, err := aside.Write(append(text, '\n')); err != nil {
		return err
	}
	return place.PutFile(ctx, manifestName, aside)
}

// ErrNoBackup says that there is no backup at a place, or none that is complete.
var ErrNoBackup = errors.New("there is no complete backup there: backup.json, which is written last, is missing")

// ReadManifest reads what backup is at a place. The errors are ErrNoBackup,
// and what is wrong with a manifest that cannot be used.
func ReadManifest(ctx context.Context, place Place) (Manifest, error) {
	var m Manifest
	rc, err := place.OpenFile(ctx, manifestName)
	if errors.Is(err, storage.ErrNotFound) {
		return m, ErrNoBackup
	}
	if err != nil {
		return m, err
	}
	defer rc.Close()
	text, err := io.ReadAll(io.LimitReader(rc, maxManifest+1))
	if err != nil {
		return m, fmt.Errorf("reading backup.json: %w", err)
	}
	if len(text) > maxManifest {
		return m, errors.New("backup.json is larger than 1 MiB, so Berth has not written it")
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("backup.json cannot be read: %w", err)
	}
	if m.Format != Format {
		return Manifest{}, fmt.Errorf("the backup has the format %d and this program knows %d: use the berth that has made it (version %.40s), or a newer one", m.Format, Format, m.Version)
	}
	if !storage.ValidFileName(m.Database.Name) || m.Database.Name == manifestName || len(m.Database.SHA256) != 2*sha256.Size || m.Database.Size <= 0 {
		return Manifest{}, errors.New("backup.json names no database: it is damaged")
	}
	return m, nil
}

// fetch copies a file of the place to path, which then holds just the bytes
// that the manifest says, or is not there.
func fetch(ctx context.Context, place Place, file File, path string) (err error) {
	rc, err := place.OpenFile(ctx, file.Name)
	if err != nil {
		return fmt.Errorf("opening the backup's database: %w", err)
	}
	defer rc.Close()
	aside := path + ".partial"
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(aside))
		}
	}()
	sum := &sized{Hash: sha256.New()}
	_, err = io.Copy(io.MultiWriter(f, sum), storage.ContextReader{Context: ctx, Reader: io.LimitReader(rc, file.Size+1)})
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("copying the backup's database: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); sum.n != file.Size || got != file.SHA256 {
		return fmt.Errorf("the backup's database %s is damaged: it has %d bytes with the SHA-256 %s, backup.json says %d and %s", file.Name, sum.n, got, file.Size, file.SHA256)
	}
	return os.Rename(aside, path)
}

// sized is a hash that counts.
type sized struct {
	hash.Hash
	n int64
}

func (s *sized) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return s.Hash.Write(p)
}
