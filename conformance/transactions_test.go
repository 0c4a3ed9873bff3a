package conformance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/testenv"
)

// opensTransactions lists the files below server/ and cmd/ that open a transaction, and why they
// may. Doors translate: what a change means, with its rows and its event, is in registry and
// people, and so are the reads. The list may only get shorter.
var opensTransactions = map[string]string{}

// readsOfDoors are files of the management API that read rows themselves, in a View or a
// Snapshot. None of them may write.
var readsOfDoors = []string{
	"accounts.go", "audit.go", "denials.go", "grants.go", "groups.go", "services.go", "session.go", "teams.go", "tokens.go", "trust.go", "users.go",
}

// TestDoorsOpenNoTransaction: no package below server/ or cmd/ opens a transaction that writes, or
// names one at all, but for what the two lists say. A door that did would have rules of its own.
func TestDoorsOpenNoTransaction(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for name := range opensTransactions {
		left[name] = true
	}
	for _, name := range readsOfDoors {
		left["server/admin/"+name] = true
	}
	for _, dir := range []string{"server", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			name = filepath.ToSlash(name)
			writes, names, err := transactionsOf(path)
			if err != nil {
				return err
			}
			reads := strings.HasPrefix(name, "server/admin/") && slices.Contains(readsOfDoors, filepath.Base(name))
			switch {
			case opensTransactions[name] != "":
			case len(writes) > 0:
				t.Errorf("%s writes in a transaction of its own (%s): the change belongs into registry or people", name, strings.Join(writes, ", "))
			case names && !reads:
				t.Errorf("%s reads in a transaction of its own: give registry, people or auth a method for it", name)
			}
			if names {
				delete(left, name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range left {
		t.Errorf("%s opens no transaction: take it off the list", name)
	}
}

// transactionsOf tells the calls of a file that open a transaction which may write, and whether
// it names transactions at all: each function that gets one has to.
func transactionsOf(path string) (writes []string, names bool, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, false, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok && (pkg.Name == "metadata" || pkg.Name == "sqldb") && n.Sel.Name == "Tx" {
				names = true
			}
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || f.Sel.Name != "Update" && f.Sel.Name != "UpdateRelaxed" || len(n.Args) != 2 {
				break
			}
			writes = append(writes, fmt.Sprintf("line %d", fset.Position(n.Pos()).Line))
		}
		return true
	})
	return writes, names, nil
}
