package main

import (
	"database/sql"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"berth/metadata"
	"berth/testenv"
)

// importWorld is a database with users, and files to import.
type importWorld struct {
	t  *testing.T
	db *metadata.DB
}

func newImportWorld(t *testing.T, users ...metadata.User) *importWorld {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("BERTH_DATA_DIR", dir)
	if code, _, stderr := runBerth(t, "migrate"); code != 0 {
		t.Fatal(stderr)
	}
	db, err := metadata.Open(t.Context(), metadata.Options{URL: "sqlite:" + filepath.Join(dir, "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	err = db.Update(t.Context(), func(tx *metadata.Tx) error {
		for _, u := range users {
			if _, err := tx.CreateUser(t.Context(), u); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return &importWorld{t, db}
}

// dims writes an export with a token for each user.
func (w *importWorld) dims(users ...string) string {
	w.t.Helper()
	text := "User,Token\n"
	for i, u := range users {
		text += u + "," + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "pair%d:%s", i, u)) + "\n"
	}
	return w.file(text)
}

func (w *importWorld) file(text string) string {
	w.t.Helper()
	name := filepath.Join(w.t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// have gives users as NAME/SOURCE/TOKENS.
func (w *importWorld) have() (all []string) {
	w.t.Helper()
	err := w.db.View(w.t.Context(), func(tx *metadata.Tx) error {
		users, err := tx.Users(w.t.Context(), "", 100)
		for _, u := range users {
			tokens, err := tx.Tokens(w.t.Context(), u.Name, "", "", 100)
			if err != nil {
				return err
			}
			all = append(all, fmt.Sprintf("%s/%s/%d", u.Name, u.Source, len(tokens)))
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// run imports, and wants the exit code and the words in what it says.
func (w *importWorld) run(code int, args []string, words ...string) {
	w.t.Helper()
	got, stdout, stderr := runBerth(w.t, append([]string{"import"}, args...)...)
	for _, word := range words {
		if !strings.Contains(stdout+stderr, word) {
			w.t.Errorf("%q does not say %q:\n%s%s", args, word, stdout, stderr)
		}
	}
	if got != code {
		w.t.Errorf("%q: exit code %d, want %d:\n%s%s", args, got, code, stdout, stderr)
	}
}

func (w *importWorld) want(all ...string) {
	w.t.Helper()
	if got := w.have(); !slices.Equal(got, all) {
		w.t.Errorf("there are %v, want %v", got, all)
	}
}

// A token of a directory's user is nobody else's: not the local user's of the same name, the administrator included.
// All such records are named at once, in the dry run too, and only --skip-invalid leaves them out.
func TestImportDimsIdentity(t *testing.T) {
	w := newImportWorld(t, metadata.User{Name: "admin", Role: metadata.RoleAdmin}, metadata.User{Name: "bob", Role: metadata.RoleUser},
		metadata.User{Name: "Lea", Role: metadata.RoleUser, Source: "ldap"}, metadata.User{Name: "boss", Role: metadata.RoleAdmin, Source: "ldap"})
	file := w.dims("admin", "bob", "Bob", "lea", "new", "NEW", "boss", "a+b")
	bad := []string{"record 1: the user admin here is of the source local, and not ldap", "record 2: the user bob here is of the source local",
		"record 3: Bob differs in case only from bob", "record 6: NEW and new differ in case only", "record 7: boss administers this registry", `record 8: the user name "a+b"`, "--skip-invalid"}
	before := w.have()
	for _, dry := range [][]string{nil, {"--dry-run"}} {
		w.run(1, append([]string{"dims", file, "--source", "ldap"}, dry...), bad...)
		w.want(before...)
	}
	w.run(0, []string{"dims", file, "--source", "ldap", "--skip-invalid", "--dry-run"}, append(bad[:6], "1 user would be made, 2 tokens would be made", "6 left alone")...)
	w.want(before...)
	w.run(0, []string{"dims", file, "--source", "ldap", "--skip-invalid"}, "1 user made, 2 tokens made", "6 left alone")
	w.want("Lea/ldap/1", "admin/local/0", "bob/local/0", "boss/ldap/0", "new/ldap/1")

	// The same the other way round; an administrator's record has to be asked for.
	file = w.dims("admin", "Lea", "bob")
	w.run(1, []string{"dims", file}, "record 1: admin administers this registry", "record 2: the user Lea here is of the source ldap, and not local")
	w.run(1, []string{"dims", file, "--admins"}, "record 2: ")
	w.run(0, []string{"dims", w.dims("admin"), "--admins"}, "1 token made")
	w.want("Lea/ldap/1", "admin/local/1", "bob/local/0", "boss/ldap/0", "new/ldap/1")
}

// The user names that come with tokens of other providers are nobody's, by any importer. Who has one already keeps it.
func TestImportReservedNames(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	w := newImportWorld(t, metadata.User{Name: "token", Role: metadata.RoleUser})
	w.run(1, []string{"dims", w.dims("oauth2", "OIDC", "token"), "--dry-run"}, `record 1: the user name "oauth2" is reserved`, `record 2: the user name "OIDC" is reserved`)
	w.run(0, []string{"dims", w.dims("oauth2", "token"), "--skip-invalid"}, "1 token made", "1 left alone")
	passwords := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(passwords, fmt.Appendf(nil, "Oidc:%s\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(1, []string{"htpasswd", passwords}, `line 1: the user name "Oidc" is reserved`)
	w.want("token/local/1")
}

// The directory says how a name is written and whether it has it.
func TestImportDimsAsksTheDirectory(t *testing.T) {
	s := testenv.Slapd(t, `
dn: uid=john.doe,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: John
sn: D
uid: john.doe
userPassword: pw-of-john
`)
	for key, value := range map[string]string{"URL": s.SecureURL, "CA_FILE": s.CAFile, "BIND_DN": s.BindDN, "BIND_PASSWORD": s.BindPassword, "BASE_DN": "ou=people," + s.BaseDN} {
		t.Setenv("BERTH_LDAP_"+key, value)
	}
	w := newImportWorld(t)
	file := w.dims("John.Doe", "JOHN.DOE", "gone")
	w.run(1, []string{"dims", file, "--source", "ldap", "--dry-run"}, "record 3: the directory has no user gone")
	w.run(0, []string{"dims", file, "--source", "ldap", "--skip-invalid"}, "1 user made, 2 tokens made")
	w.want("john.doe/ldap/2")
	w.run(0, []string{"dims", w.dims("John.Doe", "JOHN.DOE"), "--source", "ldap"}, "2 there already")

	s.Kill()
	w.run(1, []string{"dims", file, "--source", "ldap", "--skip-invalid"}, "asking the directory about John.Doe")
}

// The other importers give nothing to somebody else either.
func TestImportIdentityOfOthers(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	w := newImportWorld(t, metadata.User{Name: "admin", Role: metadata.RoleAdmin, PasswordHash: "old"}, metadata.User{Name: "lea", Role: metadata.RoleUser, Source: "ldap"})
	file := w.file(fmt.Sprintf("admin:%[1]s\nlea:%[1]s\nLEA:%[1]s\nnew:%[1]s\nold:{SHA}x\n", hash))
	w.run(1, []string{"htpasswd", file, "--replace"}, "line 1: admin administers this registry", "line 2: the user lea here is of the source ldap", "line 3: LEA differs in case only from lea", "line 5: ")
	w.want("admin/local/0", "lea/ldap/0")
	w.run(0, []string{"htpasswd", file, "--replace", "--skip-invalid"}, "1 user made", "4 left alone")
	w.want("admin/local/0", "lea/ldap/0", "new/local/0")
	err = w.db.View(t.Context(), func(tx *metadata.Tx) error {
		u, err := tx.User(t.Context(), "admin")
		if u.PasswordHash != "old" {
			t.Error("the administrator has the password of the file")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Dockit's permissions and memberships do not reach a directory's user of the same name.
func TestImportDockitIdentity(t *testing.T) {
	path := dockitFile(t)
	w := newImportWorld(t, metadata.User{Name: "alice", Role: metadata.RoleUser, Source: "ldap"})
	w.run(1, []string{"dockit", path, "--dry-run"}, "the user alice: the user alice here is of the source ldap, and not local")
	w.want("alice/ldap/0")
	w.run(0, []string{"dockit", path, "--skip-invalid"}, "the user alice: ")
	err := w.db.View(t.Context(), func(tx *metadata.Tx) error {
		grants, err := tx.Grants(t.Context(), metadata.GrantFilter{Grantee: metadata.Grantee{User: "alice"}, Limit: 10})
		if err != nil || len(grants) > 0 {
			t.Errorf("alice got %v, %v", grants, err)
		}
		u, err := tx.User(t.Context(), "alice")
		if err != nil {
			return err
		}
		groups, err := tx.UserGroups(t.Context(), u.ID)
		if len(groups) > 0 {
			t.Errorf("alice is in %v", groups)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// dockitFile is a database of Dockit.
func dockitFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dockit.sqlite")
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	fillDockit(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
