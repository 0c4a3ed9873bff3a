package conformance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"berth/testenv"
)

// TestDoorsOpenNoTransaction: no package below server/, cmd/ or imports/ opens a transaction, and
// none below server/ or imports/ holds a database. One that did would have rules of its own: what a
// change means, with its rows and its event, is in registry and people, and so are the reads.
func TestDoorsOpenNoTransaction(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dir, holds := range map[string]bool{"server": false, "imports": false, "cmd": true} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			seen++
			found, err := databaseUses(name, nil, holds)
			for _, use := range found {
				t.Errorf("%s: give registry, people, auth or audit a method for it", use)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 50 {
		t.Errorf("only %d files were looked at", seen)
	}
}

// The guard sees each way to a transaction or a database.
func TestDatabaseUses(t *testing.T) {
	for source, want := range map[string]int{
		`import "berth/metadata"; type o struct { db *metadata.DB }`:                      1,
		`import m "berth/metadata"; type o struct { db *m.DB }`:                           1,
		`import "berth/sqldb"; var db *sqldb.DB`:                                          1,
		`import . "berth/metadata"`:                                                       1,
		`import "berth/metadata"; func f(tx *metadata.Tx) {}`:                             1,
		`import "berth/people"; func f(c context.Context, p people.P) { p.o.View(c, r) }`: 1,
		`func f() { db.Update(ctx, write); db.UpdateRelaxed(ctx, write) }`:                2,
		`func f() { o.DB.Snapshot(ctx, read) }`:                                           1,
		`import "berth/metadata"; var u metadata.User`:                                    0,
	} {
		found, err := databaseUses("a.go", "package a; "+source, false)
		if err != nil || len(found) != want {
			t.Errorf("%s: found %v, want %d; %v", source, found, want, err)
		}
	}
	found, err := databaseUses("a.go", `package a; import "berth/metadata"; func f(db *metadata.DB, tx *metadata.Tx) {}`, true)
	if err != nil || len(found) != 1 {
		t.Errorf("where a database may be held: found %v; %v", found, err)
	}
}

// databaseUses tells where a file names a transaction, which each function that gets one has to,
// or opens one, and, unless it may hold one, where it names a database. source is as in
// parser.ParseFile.
func databaseUses(name string, source any, holds bool) (found []string, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	report := func(n ast.Node, format string, args ...any) {
		found = append(found, fmt.Sprintf("%s:%d %s", name, fset.Position(n.Pos()).Line, fmt.Sprintf(format, args...)))
	}
	databases := map[string]bool{} // by the name that the file has for the package
	for _, i := range file.Imports {
		imported, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		switch {
		case imported != "berth/metadata" && imported != "berth/sqldb":
		case i.Name == nil:
			databases[path.Base(imported)] = true
		case i.Name.Name == ".":
			report(i, "imports all names of %s", imported)
		default:
			databases[i.Name.Name] = true
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			switch {
			case !ok || !databases[pkg.Name]:
			case n.Sel.Name == "Tx":
				report(n, "has a transaction")
			case n.Sel.Name == "DB" && !holds:
				report(n, "holds a database")
			}
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || len(n.Args) != 2 {
				break
			}
			switch f.Sel.Name {
			case "View", "Snapshot", "Update", "UpdateRelaxed":
				report(n, "opens a transaction (%s)", f.Sel.Name)
			}
		}
		return true
	})
	return found, nil
}
