package main

import (
	"path/filepath"
	"strings"
	"testing"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// A database without Berth's tables is no registry, on either engine, and gets none from a local command.
func TestNoRegistryIsMade(t *testing.T) {
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		for _, words := range [][]string{{"gc"}, {"check", "--repair"}, {"du"}, {"backup", filepath.Join(t.TempDir(), "backup")}} {
			code, _, stderr := runBerth(t, append(words, "--database-url", url, "--data-dir", filepath.Join(t.TempDir(), "data"))...)
			if code != 1 || !strings.HasPrefix(stderr, "berth: there is no registry here: ") {
				t.Errorf("berth %s ends with code %d and says %q", words[0], code, stderr)
			}
		}
		if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
			if made, err := filepath.Glob(path + "*"); err != nil || len(made) > 0 {
				t.Errorf("%v were made: %v", made, err)
			}
			return
		}
		db, err := metadata.Open(t.Context(), metadata.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if have, _, err := db.SchemaVersion(t.Context()); err != nil || have != 0 {
			t.Errorf("the database has schema version %d, %v", have, err)
		}
	})
}
