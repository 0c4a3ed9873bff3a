package open

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"berth/backup"
	"berth/cmd/berth/settings"
	"berth/metadata"
	"berth/oci"
)

// TargetOf gives the settings of another registry that is made of this one. It refuses
// what is by its name the registry's own; backup.Transfer finds out what has two names.
func TargetOf(c *settings.Config, database, store string) (*settings.Config, error) {
	if DescribeDatabase(database) == DescribeDatabase(c.DatabaseURL) || slices.Contains([]string{c.StorageURL, c.StorageFallbackURL}, store) {
		return nil, errors.New("the target has to be another database and another store: objects of two registries must not share a place")
	}
	t := *c
	t.DatabaseURL, t.StorageURL, t.StorageFallbackURL = database, store, ""
	return &t, nil
}

// Target opens the database and the store of the settings to be filled. It
// migrates, and does not take the database into use as a server does. A database that is in use is
// refused with backup.ErrInUse and left as it is. No error has a secret.
func Target(ctx context.Context, c *settings.Config, log *slog.Logger) (side backup.Side, err error) {
	database := DescribeDatabase(c.DatabaseURL)
	if side.DB, err = metadata.Open(ctx, DatabaseOptions(c, 8, log)); err != nil {
		return side, fmt.Errorf("the target database %s cannot be opened: %w. Check that it is there and can be reached from here, and the user and the password in its URL", database, Cause(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, side.DB.Close())
		}
	}()
	if err := backup.Receives(ctx, side.DB); err != nil {
		return side, fmt.Errorf("%s: %w", database, err)
	}
	side.Store, _, err = openBareStore(ctx, c, c.StorageURL, false, log)
	if err == nil {
		err = side.Store.Writable(ctx)
	}
	if err != nil {
		return side, fmt.Errorf("the target's store %s cannot be used: %w. Check that the directory or the bucket is there and can be written to, and for S3 the endpoint and the credentials of the AWS chain", describeStore(c.StorageURL), err)
	}
	if _, err := side.DB.Migrate(ctx); err != nil {
		return side, fmt.Errorf("making the tables of the target database %s: %w. Its user has to own it", database, Cause(err))
	}
	return side, nil
}

// Cause is what an error of the database comes from: who reads it has to know what it is.
func Cause(err error) error {
	var known *oci.Error
	if errors.As(err, &known) && known.Err != nil {
		return known.Err
	}
	return err
}

// WithTarget opens a target, and closes it again.
func WithTarget(ctx context.Context, c *settings.Config, log *slog.Logger, run func(backup.Side) error) (err error) {
	to, err := Target(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.DB.Close()) }()
	return run(to)
}
