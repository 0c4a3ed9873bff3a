package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func TestServices(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := context.Background()
		want := metadata.Service{Name: "registry.example.com:5000", Issuer: "x", TokenTTL: 90 * time.Second, Algorithm: "RS256", AnonymousPull: "library/*", RefreshTokens: true}
		var put metadata.Service
		for n := range 2 {
			update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
				var made bool
				put, made, err = tx.PutService(ctx, want)
				if made != (n == 0) {
					t.Errorf("round %d: made is %v", n, made)
				}
				return err
			})
		}
		want.ID, want.CreatedAt, want.UpdatedAt = put.ID, put.CreatedAt, put.UpdatedAt
		if put != want || put.ID == 0 || put.CreatedAt.IsZero() {
			t.Errorf("%+v, want %+v", put, want)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for _, name := range []string{"b", "a", "B"} {
				if _, _, err := tx.PutService(ctx, metadata.Service{Name: name, Issuer: "i", TokenTTL: time.Minute, Algorithm: "ES256"}); err != nil {
					return err
				}
			}
			return tx.AddSigningKey(ctx, metadata.SigningKey{ServiceID: put.ID, KID: "k", Algorithm: "ES256", PrivatePEM: "p", ActiveAt: tx.Now()}, time.Hour)
		})
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			first, err := tx.Services(ctx, "", 2)
			rest, err2 := tx.Services(ctx, "a", 10)
			names := ""
			for _, s := range append(first, rest...) {
				names += s.Name + " "
			}
			if names != "B a b registry.example.com:5000 " {
				t.Errorf("pages: %s", names)
			}
			return errors.Join(err, err2)
		})
		// A key that is followed by another verifies as long as what it may still sign.
		expires := func() time.Duration {
			t.Helper()
			var until time.Duration
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				keys, err := tx.SigningKeys(ctx)
				if err != nil || len(keys) != 2 || keys[0].ExpiresAt != nil || keys[1].ExpiresAt == nil {
					t.Fatalf("keys: %+v, %v", keys, err)
				}
				until = keys[1].ExpiresAt.Sub(keys[0].ActiveAt)
				return nil
			})
			return until
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.AddSigningKey(ctx, metadata.SigningKey{ServiceID: put.ID, KID: "next", Algorithm: "ES256", PrivatePEM: "p", ActiveAt: tx.Now().Add(time.Hour)}, 10*time.Minute)
		})
		for _, step := range []struct{ ttl, want time.Duration }{
			{90 * time.Second, 10 * time.Minute}, {150 * time.Second, 11 * time.Minute}, {time.Minute, 11 * time.Minute},
		} {
			longer := want
			longer.TokenTTL = step.ttl
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				_, _, err := tx.PutService(ctx, longer)
				return err
			})
			if got := expires(); got != step.want {
				t.Errorf("with tokens of %s the key before verifies for %s, want %s", step.ttl, got, step.want)
			}
		}
		remove := func() error {
			return db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteService(ctx, want.Name) })
		}
		if err := remove(); err != nil {
			t.Error(err)
		}
		wantErr(t, remove(), oci.ErrNotFound)
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.Service(ctx, want.Name)
			wantErr(t, err, oci.ErrNotFound)
			_, err = tx.LockService(ctx, want.Name)
			wantErr(t, err, oci.ErrNotFound)
			if keys, err := tx.SigningKeys(ctx); err != nil || len(keys) != 0 {
				t.Errorf("the keys of a service that is gone: %+v, %v", keys, err)
			}
			return nil
		})
		// Of a service that is gone there can be no key.
		err := db.Update(ctx, func(tx *metadata.Tx) error {
			return tx.AddSigningKey(ctx, metadata.SigningKey{ServiceID: put.ID, KID: "k", Algorithm: "ES256", PrivatePEM: "p", ActiveAt: tx.Now()}, time.Hour)
		})
		wantErr(t, err, oci.ErrNotFound)
	})
}

// Many who rotate at the same time leave one newest key, which alone has no end.
func TestRotationRace(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		dbs := []*metadata.DB{metadatatest.Open(t, metadata.Options{URL: url}), metadatatest.Open(t, metadata.Options{URL: url})}
		ctx := context.Background()
		var wg sync.WaitGroup
		for n := range 16 {
			wg.Go(func() {
				err := dbs[n%2].Update(ctx, func(tx *metadata.Tx) error {
					return tx.AddSigningKey(ctx, metadata.SigningKey{KID: fmt.Sprint("key", n%12), Algorithm: "ES256", PrivatePEM: "p", ActiveAt: tx.Now()}, time.Hour)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		view(t, dbs[0], func(ctx context.Context, tx *metadata.Tx) error {
			keys, err := tx.SigningKeys(ctx)
			if err != nil {
				return err
			}
			if len(keys) != 12 {
				t.Errorf("%d keys, want 12", len(keys))
			}
			for n, k := range keys {
				if (k.ExpiresAt == nil) != (n == 0) {
					t.Errorf("key %d of %d ends at %v", n, len(keys), k.ExpiresAt)
				}
			}
			return nil
		})
	})
}
