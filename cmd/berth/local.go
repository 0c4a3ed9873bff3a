package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"berth/metadata"
	"berth/registry"
	"berth/storage"
)

// local is what the commands work on that go to the configured database and
// store themselves, beside running servers.
type local struct {
	config   *config
	log      *slog.Logger
	db       *metadata.DB
	store    storage.Store // nil for commands that do not need it
	registry *registry.Registry
}

// runLocal opens what a command works on, runs it, and closes. It does not
// migrate: servers of an older version may be running.
func runLocal(cmd *cobra.Command, withStore bool, run func(context.Context, *local) error) (err error) {
	c, err := loadConfig(cmd.Flags(), os.Environ())
	if err != nil {
		return err
	}
	ctx, log := cmd.Context(), newLogger(c, cmd.ErrOrStderr())
	l := &local{config: c, log: log}
	if l.db, err = metadata.Open(ctx, metadata.Options{URL: c.DatabaseURL, MaxConns: 4, Logger: log}); err != nil {
		return databaseError(err)
	}
	defer func() { err = errors.Join(err, l.db.Close()) }()
	have, want, err := l.db.SchemaVersion(ctx)
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("the database has schema version %d and this program needs %d: use the berth of the servers, or run 'berth migrate' when they are updated", have, want)
	}
	if withStore {
		if l.store, err = openStore(ctx, c, log, prometheus.NewRegistry()); err != nil {
			return err
		}
	}
	o := registryOptions(c)
	o.Logger = log
	l.registry = registry.New(l.db, l.store, o)
	return run(ctx, l)
}

// mayChange refuses what would change a registry that its settings make read-only: it is being
// copied, and somebody may want to go back to it.
func (l *local) mayChange() error {
	if l.config.ReadOnly {
		return errors.New("the setting read_only is on, so nothing may be changed: wait until the maintenance is over, or say --read-only=false")
	}
	return nil
}

// registryOptions are what the settings say about the registry.
func registryOptions(c *config) registry.Options {
	o := registry.Options{
		DefaultVisibility: c.Visibility,
		AllowSparse:       c.SparseIndex,
		MaxManifestSize:   c.MaxManifestSize,
		UploadTTL:         c.UploadTTL,
		GCGrace:           c.GCGrace,
		UntaggedTTL:       c.UntaggedTTL,
		UndoWindow:        c.UndoWindow,
	}
	if c.StorageRedirect {
		o.ReadTTL = c.RedirectTTL
	}
	return o
}

// outputFlag adds --output to a command that has no server's.
func outputFlag(cmd *cobra.Command) *choice {
	c := &choice{value: "text", values: []string{"text", "json"}}
	cmd.Flags().VarP(c, "output", "o", "form of the output: text, json")
	if err := cmd.RegisterFlagCompletionFunc("output", c.complete); err != nil {
		panic(err) // the flag is defined in the line above
	}
	return c
}
