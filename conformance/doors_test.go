package conformance

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/testenv"
)

// writers are metadata's for the nouns of package people, called on a transaction.
var writers = regexp.MustCompile(`\b(?:tx|Tx)\.(?:(?:Create|Update|Delete)(?:User|Team|Group|Token)|CreateFirstAdmin|PutMember|RemoveMember|PutGroupMember|RemoveGroupMember|SetGroupDisabled|` +
	`SetTeamVisibility|(?:Put|Add|Take|Delete)Grant|(?:Put|Delete)Denial|RotateToken|(?:Put|Delete)Trust(?:Issuer|Policy)|(?:Put|Delete)Service|(?:Put|Delete)Account)\(`)

// Doors only translate: what changing people and their rights means is in package people,
// and no door and no command writes these rows.
func TestDoorsWriteNoPeople(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, dir := range []string{"server", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			seen++
			for _, call := range writers.FindAllString(string(text), -1) {
				t.Errorf("%s calls %s): call package people", path, call)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 50 {
		t.Errorf("only %d files were looked at", seen)
	}
}
