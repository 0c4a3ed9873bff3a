package metadata_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func TestAccounts(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		made := clock.Now()
		put := func(a metadata.Account) (got metadata.Account) {
			update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
				got, err = tx.PutAccount(ctx, a)
				return err
			})
			return got
		}
		whole := metadata.Account{Account: "123456789012", Repositories: "*", Actions: []string{"pull"}, CreatedBy: "boss"}
		put(whole)
		put(metadata.Account{Account: "123456789012", Role: "ci-*", Repositories: "core/*", Actions: []string{"pull", "push"}, CreatedBy: "boss"})
		put(metadata.Account{Account: "210987654321", Repositories: "a/*", Actions: []string{"pull"}, CreatedBy: "boss"})

		// Again is a change; who let it in, and when, stays.
		clock.Advance(time.Hour)
		whole.Repositories, whole.CreatedBy = "core/*", "other"
		if got := put(whole); got.Repositories != "core/*" || got.CreatedBy != "boss" || !got.CreatedAt.Equal(made) {
			t.Errorf("changed: %+v", got)
		}

		var pages []string
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			account, role := "", ""
			for {
				page, err := tx.Accounts(ctx, account, role, 1)
				if err != nil || len(page) == 0 {
					return err
				}
				account, role = page[0].Account, page[0].Role
				pages = append(pages, account+"/"+role)
			}
		})
		if want := []string{"123456789012/", "123456789012/ci-*", "210987654321/"}; !slices.Equal(pages, want) {
			t.Errorf("pages %q, want %q", pages, want)
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			rows, err := tx.AccountRoles(ctx, "123456789012")
			if len(rows) != 2 || rows[0].Repositories != "core/*" || rows[1].Role != "ci-*" || !slices.Equal(rows[1].Actions, []string{"pull", "push"}) {
				t.Errorf("rows of the account: %+v", rows)
			}
			return err
		})

		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteAccount(ctx, "123456789012", "ci-*") })
		wantErr(t, db.Update(context.Background(), func(tx *metadata.Tx) error {
			return tx.DeleteAccount(context.Background(), "123456789012", "ci-*")
		}), oci.ErrNotFound)

		// The schema refuses what would give a whole account more than pull.
		err := db.Update(context.Background(), func(tx *metadata.Tx) error {
			_, err := tx.PutAccount(context.Background(), metadata.Account{Account: "999999999999", Repositories: "*", Actions: []string{"push"}, CreatedBy: "x"})
			return err
		})
		var known *oci.Error
		if err == nil || errors.As(err, &known) {
			t.Errorf("a whole account with push: %v", err)
		}
	})
}
