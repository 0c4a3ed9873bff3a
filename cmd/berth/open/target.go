package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"berth/metadata"
	"berth/oci"
	"berth/registry"
)

// targetOf gives the settings of another registry that is made of this one. It refuses
// what is by its name the registry's own; registry.Transfer finds out what has two names.
func targetOf(c *config, database, store string) (*config, error) {
	if describeDatabase(database) == describeDatabase(c.DatabaseURL) || slices.Contains([]string{c.StorageURL, c.StorageFallbackURL}, store) {
		return nil, errors.New("the target has to be another database and another store: objects of two registries must not share a place")
	}
	t := *c
	t.DatabaseURL, t.StorageURL, t.StorageFallbackURL = database, store, ""
	return &t, nil
}

// openTarget opens the database and the store of the settings to be filled. It
// migrates, and does not take the database into use as a server does. A database that is in use is
// refused with registry.ErrInUse and left as it is. No error has a secret.
func openTarget(ctx context.Context, c *config, log *slog.Logger) (side registry.Side, err error) {
	database := describeDatabase(c.DatabaseURL)
	if side.DB, err = metadata.Open(ctx, databaseOptions(c, 8, log)); err != nil {
		return side, fmt.Errorf("the target database %s cannot be opened: %w. Check that it is there and can be reached from here, and the user and the password in its URL", database, cause(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, side.DB.Close())
		}
	}()
	if err := registry.Receives(ctx, side.DB); err != nil {
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
		return side, fmt.Errorf("making the tables of the target database %s: %w. Its user has to own it", database, cause(err))
	}
	return side, nil
}

// cause is what an error of the database comes from: who reads it has to know what it is.
func cause(err error) error {
	var known *oci.Error
	if errors.As(err, &known) && known.Err != nil {
		return known.Err
	}
	return err
}

// withTarget opens a target, and closes it again.
func withTarget(ctx context.Context, c *config, log *slog.Logger, run func(registry.Side) error) (err error) {
	to, err := openTarget(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.DB.Close()) }()
	return run(to)
}
