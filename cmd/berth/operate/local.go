// Package operate has the commands that work on the configured database and store, beside running
// servers; most can also ask a server to do it. A file has the commands of its name. Start with
// runLocal.
package operate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"berth/auth"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/metadata"
	"berth/people"
	"berth/registry"
	"berth/registry/collect"
	"berth/storage"
)

// local is what the commands work on that go to the configured database and
// store themselves, beside running servers.
type local struct {
	config    *settings.Config
	log       *slog.Logger
	db        *metadata.DB
	store     storage.Store // nil for commands that do not need it
	registry  *registry.Registry
	collector *collect.Collector
}

// people changes users and rights in the database of l. Nobody signs in by it.
func (l *local) people() *people.People {
	return people.New(people.Options{DB: l.db, Hasher: auth.NewHasher(1)})
}

// runLocal opens what a command works on, runs it, and closes. It makes no registry where there is
// none, and does not migrate: servers of an older version may be running.
func runLocal(cmd *cobra.Command, withStore bool, run func(context.Context, *local) error) (err error) {
	c, err := settings.Load(cmd.Flags(), os.Environ())
	if err != nil {
		return err
	}
	ctx, log := cmd.Context(), open.Logger(c, cmd.ErrOrStderr())
	l := &local{config: c, log: log}
	o := open.DatabaseOptions(c, 4, log)
	o.MustExist = true
	if l.db, err = metadata.Open(ctx, o); errors.Is(err, metadata.ErrNoDatabase) {
		return noRegistry(cmd, c)
	} else if err != nil {
		return open.DatabaseError(err)
	}
	defer func() { err = errors.Join(err, l.db.Close()) }()
	have, want, err := l.db.SchemaVersion(ctx)
	if err != nil {
		return err
	}
	if have == 0 {
		return noRegistry(cmd, c)
	}
	if have != want {
		return fmt.Errorf("the database has schema version %d and this program needs %d: use the berth of the servers, or run 'berth migrate' when they are updated", have, want)
	}
	if withStore {
		if l.store, err = open.Store(ctx, c, true, log, prometheus.NewRegistry()); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the store of the registry is not here: %w: give --data-dir or --storage-url as the servers have them", err)
		} else if err != nil {
			return err
		}
	}
	content, rest := open.RegistryOptions(c), open.CollectorOptions(c)
	content.Logger, rest.Logger = log, log
	l.registry = registry.New(l.db, l.store, content)
	l.collector = collect.New(l.db, l.store, rest)
	return run(ctx, l)
}

// noRegistry says that the settings lead to no registry, of which nothing is made here.
func noRegistry(cmd *cobra.Command, c *settings.Config) error {
	ask := ""
	if cmd.Flags().Lookup("server") != nil {
		ask = ", or --server to ask a running one"
	}
	return fmt.Errorf("there is no registry here: %s has no data. Give --data-dir or --database-url as the servers have them%s; 'berth serve' makes a new registry",
		open.DescribeDatabase(c.DatabaseURL), ask)
}

// mayChange refuses what would change a registry that its settings make read-only: it is being
// copied, and somebody may want to go back to it.
func (l *local) mayChange() error {
	if l.config.ReadOnly {
		return errors.New("the setting read_only is on, so nothing may be changed: wait until the maintenance is over, or say --read-only=false")
	}
	return nil
}
