// Package open opens what the settings name: the log, the database, the store, the providers of
// identities, the place of a backup, and the target of a migration. Servers and the local commands
// use the same functions.
package open

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"berth/cmd/berth/settings"
	"berth/metadata"
)

// DescribeDatabase names a database without its secrets.
func DescribeDatabase(address string) string {
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok {
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		return "sqlite:" + path
	}
	u, err := url.Parse(address)
	if err != nil {
		return "postgres"
	}
	return "postgres://" + u.Host + u.Path
}

// readCache is how many bytes of what was read from the database are remembered. At rest they are
// given back.
const readCache = 4 << 20

// DatabaseOptions are those of the settings for the registry's own database.
func DatabaseOptions(c *settings.Config, conns int, log *slog.Logger) metadata.Options {
	return metadata.Options{URL: c.DatabaseURL, MaxConns: conns, Timeout: c.DatabaseTimeout, Pooled: c.DatabasePooled, Logger: log}
}

// Database connects and brings the schema up to date.
func Database(ctx context.Context, c *settings.Config, log *slog.Logger) (*metadata.DB, error) {
	o := DatabaseOptions(c, c.DatabaseConns, log)
	o.ReadCache = readCache
	db, err := metadata.Open(ctx, o)
	if err != nil {
		return nil, DatabaseError(err)
	}
	applied, err := db.Migrate(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("migrating the database: %w", err), db.Close())
	}
	if len(applied) > 0 {
		log.Info("database migrated", "applied", applied)
	}
	// What was made by restore or migrate-storage is a registry of its own from here on.
	if err := db.TakeIntoUse(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// DatabaseError says in one sentence why the database could not be opened, and which setting to
// look at.
func DatabaseError(err error) error {
	var file *os.PathError
	if errors.As(err, &file) {
		return fmt.Errorf("%w: give a directory that can be written with --data-dir (BERTH_DATA_DIR)", err)
	}
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	// The driver tells each address that it tried, in lines.
	text, _, _ := strings.Cut(connect.Error(), "\n")
	var refused *pgconn.PgError
	var name *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &refused):
		text = refused.Message
	case errors.As(err, &name):
		text = name.Error()
	case errors.As(err, &op):
		text = op.Err.Error()
	}
	return fmt.Errorf("the database at %s cannot be used: %s: does Postgres run there, and is the setting database_url right?",
		net.JoinHostPort(connect.Config.Host, strconv.Itoa(int(connect.Config.Port))), text)
}
