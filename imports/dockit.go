package imports

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "modernc.org/sqlite" // opens Dockit's SQLite files

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/oci"
	"berth/people"
)

// Dockit takes over what Dockit's database has, all of it or nothing. source is an SQLite file or a
// mysql:// URL; services are the registries that trust Dockit's key; life is that of a certificate,
// when the key has none.
func Dockit(ctx context.Context, o Options, source string, services []string, life time.Duration) (Report, error) {
	from, err := readDockit(ctx, source)
	if err != nil {
		return Report{}, err
	}
	who, err := newIdentities(ctx, o)
	if err != nil {
		return Report{}, err
	}
	// Names that nobody can have here are left out and named; those of somebody else stop the
	// import.
	possible := slices.Clone(from.users)
	invalid := func(u dockitUser) bool { _, err := auth.ParseUserName(u.name); return err != nil }
	users, strangers, err := sortRecords(ctx, who, slices.DeleteFunc(possible, invalid), func(u dockitUser) string { return "the user " + u.name },
		func(u *dockitUser) *string { return &u.name }, func(dockitUser) bool { return false })
	if err != nil {
		return Report{}, err
	}
	left, err := o.left("the database", strangers)
	if err != nil {
		return Report{}, err
	}
	valid := func(u dockitUser) bool { return !invalid(u) }
	from.users = append(users, slices.DeleteFunc(slices.Clone(from.users), valid)...)
	var report Report
	err = o.People.Batch(ctx, func(b *people.Batch) error {
		report = Report{Kept: slices.Clone(left)}
		i := &dockitImport{b: b, who: who, from: from, report: &report, life: life}
		if err := i.run(ctx, services); err != nil {
			return err
		}
		if o.DryRun {
			return errDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return Report{}, err
	}
	return report, nil
}

// OpenDockit opens Dockit's database for reading.
func OpenDockit(source string) (*sql.DB, error) {
	if dsn, ok := strings.CutPrefix(source, "mysql://"); ok {
		c, err := mysqlConfig(dsn)
		if err != nil {
			return nil, err
		}
		connector, err := mysql.NewConnector(c)
		if err != nil {
			return nil, errors.New("the address of the MySQL server is not valid")
		}
		return sql.OpenDB(connector), nil
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(source, "file:"), "?")
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 16)
	n, _ := file.Read(head) // a short file is none of SQLite's
	if err := file.Close(); err != nil {
		return nil, err
	}
	if !bytes.Equal(head[:n], []byte("SQLite format 3\x00")) {
		return nil, fmt.Errorf("%s is no SQLite file: a dump of MySQL has to be loaded into a server first (mysql NAME < %s), then give its mysql:// URL", path, filepath.Base(path))
	}
	return sql.Open("sqlite", "file:"+url.PathEscape(path)+"?mode=ro")
}

// mysqlConfig reads USER:PASSWORD@HOST:PORT/NAME, or the form of Dockit's setting,
// USER:PASSWORD@tcp(HOST:PORT)/NAME. The error never repeats it.
func mysqlConfig(dsn string) (*mysql.Config, error) {
	var c *mysql.Config
	if strings.Contains(dsn, "(") {
		var err error
		if c, err = mysql.ParseDSN(dsn); err != nil {
			return nil, errors.New("the address of the MySQL server is not of the form USER:PASSWORD@tcp(HOST:PORT)/NAME")
		}
	} else {
		u, err := url.Parse("mysql://" + dsn)
		if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return nil, errors.New("the address of the MySQL server is not of the form mysql://USER:PASSWORD@HOST:PORT/NAME, percent-encoded")
		}
		c = mysql.NewConfig()
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
		c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.Trim(u.Path, "/")
		if u.Port() == "" {
			c.Addr = u.Hostname() + ":3306"
		}
		c.TLSConfig = u.Query().Get("tls")
	}
	c.Timeout, c.ReadTimeout, c.WriteTimeout = 10*time.Second, time.Minute, time.Minute
	return c, nil
}

// What Dockit's tables hold, as far as it is taken over.
type (
	dockitUser struct {
		id            int64
		name, hash    string
		admin, active bool
	}
	dockitGroup struct {
		id     int64
		name   string
		active bool
	}
	dockitMember     struct{ user, group int64 }
	dockitPermission struct {
		kind, class, name, action string
		entity                    int64
	}
	dockitData struct {
		users       []dockitUser
		groups      []dockitGroup
		members     []dockitMember
		permissions []dockitPermission
		key         string // PEM, with its certificate; "" is none
	}
)

// readDockit reads the whole database.
func readDockit(ctx context.Context, source string) (d dockitData, err error) {
	db, err := OpenDockit(source)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	read := func(query string, row func(*sql.Rows) error) {
		if err != nil {
			return
		}
		var rows *sql.Rows
		if rows, err = db.QueryContext(ctx, query); err != nil {
			err = fmt.Errorf("reading Dockit's database: %w", err)
			return
		}
		defer rows.Close()
		for n := 0; err == nil && rows.Next(); n++ {
			if n == maxRecords {
				err = fmt.Errorf("the database of Dockit has more than %d rows in a table", maxRecords)
				return
			}
			err = row(rows)
		}
		err = errors.Join(err, rows.Err())
	}
	read("SELECT id, username, COALESCE(password, ''), COALESCE(admin, 0), COALESCE(active, 0) FROM users ORDER BY username", func(rows *sql.Rows) error {
		var u dockitUser
		err := rows.Scan(&u.id, &u.name, &u.hash, &u.admin, &u.active)
		d.users = append(d.users, u)
		return err
	})
	read("SELECT id, name, COALESCE(active, 0) FROM `groups` ORDER BY name, id", func(rows *sql.Rows) error {
		var g dockitGroup
		err := rows.Scan(&g.id, &g.name, &g.active)
		d.groups = append(d.groups, g)
		return err
	})
	read("SELECT user_id, group_id FROM user_groups ORDER BY group_id, user_id", func(rows *sql.Rows) error {
		var m dockitMember
		err := rows.Scan(&m.user, &m.group)
		d.members = append(d.members, m)
		return err
	})
	read("SELECT type, COALESCE(class, ''), name, COALESCE(action, ''), COALESCE(entity_id, 0) FROM permissions ORDER BY type, name, id", func(rows *sql.Rows) error {
		var p dockitPermission
		err := rows.Scan(&p.kind, &p.class, &p.name, &p.action, &p.entity)
		d.permissions = append(d.permissions, p)
		return err
	})
	read("SELECT private, x509 FROM pkis WHERE active ORDER BY id DESC LIMIT 1", func(rows *sql.Rows) error {
		var private, certificate string
		err := rows.Scan(&private, &certificate)
		d.key = private + "\n" + certificate
		return err
	})
	return d, err
}

// dockitImport is one import, in one transaction.
type dockitImport struct {
	b      *people.Batch
	from   dockitData
	who    *identities
	report *Report
	life   time.Duration // of a certificate, when Dockit's key has none

	grantees map[int64]metadata.Grantee // by Dockit's id
}

func (i *dockitImport) kept(format string, args ...any) {
	i.report.Kept = append(i.report.Kept, fmt.Sprintf(format, args...))
}

func (i *dockitImport) run(ctx context.Context, services []string) error {
	i.grantees = map[int64]metadata.Grantee{}
	for _, step := range []func(context.Context) error{i.users, i.groups, i.members, i.permissions} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if i.from.key == "" {
		return nil
	}
	if len(services) == 0 {
		i.kept("the signing key: say with --service which registries trust it")
		return nil
	}
	m, err := token.ParseMaterial([]byte(i.from.key))
	if err != nil {
		i.kept("the signing key: %v", err)
		return nil
	}
	for _, name := range services {
		if err := i.service(ctx, name, m); err != nil {
			return fmt.Errorf("the service %s: %w", name, err)
		}
	}
	return nil
}

func (i *dockitImport) users(ctx context.Context) error {
	hasher := auth.NewHasher(1)
	for _, u := range i.from.users {
		if u.name == string(auth.KindAnonymous) {
			i.kept("the user anonymous: what everybody may pull is said for each service, 'berth service set NAME --anonymous-pull PATTERN'")
			continue
		}
		if err := auth.CheckNewUser(u.name); err != nil {
			i.kept("a user: %s", oci.Message(err))
			continue
		}
		if err := hasher.Check(u.hash); err != nil {
			i.kept("the user %s: %s", u.name, oci.Message(err))
			continue
		}
		i.grantees[u.id] = metadata.Grantee{User: u.name}
		before, err := i.who.whose(ctx, i.b, u.name)
		switch {
		case err == nil && before.PasswordHash == u.hash:
			i.report.Unchanged++
			continue
		case err == nil:
			i.kept("%s is there already, and keeps the password and the role", u.name)
			continue
		case !errors.Is(err, oci.ErrNotFound):
			return err
		}
		role := metadata.RoleUser
		if u.admin {
			role = metadata.RoleAdmin
		}
		if _, err := i.b.CreateUser(ctx, importer, metadata.User{Name: u.name, PasswordHash: u.hash, Role: role, Disabled: !u.active}, "dockit"); err != nil {
			return err
		}
		i.report.Users++
	}
	return nil
}

func (i *dockitImport) groups(ctx context.Context) error {
	for _, g := range i.from.groups {
		if _, err := auth.ParseUserName(g.name); err != nil {
			i.kept("a group: its name %.140q is not valid: use letters, digits, '.', '_' or '-'", g.name)
			continue
		}
		i.grantees[g.id] = metadata.Grantee{Group: g.name}
		_, err := i.b.Group(ctx, g.name)
		switch {
		case err == nil: // or a second one of the name, which Dockit allows
			i.report.Unchanged++
			continue
		case !errors.Is(err, oci.ErrNotFound):
			return err
		}
		if _, err := i.b.CreateGroup(ctx, importer, g.name); err != nil {
			return err
		}
		if !g.active {
			if _, err := i.b.SetGroupDisabled(ctx, importer, g.name, true, nil); err != nil {
				return err
			}
		}
		i.report.Groups++
	}
	return nil
}

func (i *dockitImport) members(ctx context.Context) error {
	in := map[string][]string{} // the groups of a user, as they were before
	for _, m := range i.from.members {
		user, group := i.grantees[m.user].User, i.grantees[m.group].Group
		if user == "" || group == "" {
			continue // of somebody who was left out, and named
		}
		if _, ok := in[user]; !ok {
			var err error
			if in[user], err = i.b.UserGroups(ctx, user); err != nil {
				return err
			}
		}
		if slices.Contains(in[user], group) {
			i.report.Unchanged++
			continue
		}
		if err := i.b.PutGroupMember(ctx, importer, group, user); err != nil {
			return err
		}
		in[user] = append(in[user], group)
		i.report.Members++
	}
	return nil
}

func (i *dockitImport) permissions(ctx context.Context) error {
	for _, p := range i.from.permissions {
		to, ok := i.grantees[p.entity]
		if !ok {
			i.kept("%s on the %s %s: whom it was given to is not taken over", p.action, p.kind, p.name)
			continue
		}
		pattern := p.name
		if p.kind == "namespace" {
			pattern += "/*"
		}
		actions := map[string][]string{"pull": {"pull"}, "push": {"pull", "push"}}[p.action]
		if _, err := oci.ParseName(p.name); err != nil || p.kind != "repository" && p.kind != "namespace" || actions == nil {
			i.kept("%s on the %s %s of %s: there is no such right here", p.action, p.kind, p.name, to)
			continue
		}
		grants, err := i.b.GrantsTo(ctx, to)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(grants, func(g metadata.Grant) bool {
			return g.Pattern == pattern && !slices.ContainsFunc(actions, func(a string) bool { return !slices.Contains(g.Actions, a) })
		}) {
			i.report.Unchanged++
			continue
		}
		if err := i.b.AddGrant(ctx, importer, to, pattern, actions); err != nil {
			return err
		}
		i.report.Grants++
	}
	return nil
}

// dockitIssuer is the issuer of Dockit's tokens, which registries expect.
const dockitIssuer = "dockit"

// service makes Dockit's key that of a registry.
func (i *dockitImport) service(ctx context.Context, name string, m *token.Material) error {
	s, err := i.b.LockService(ctx, name)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		s, err = i.b.CreateService(ctx, importer, metadata.Service{Name: name, Issuer: dockitIssuer, TokenTTL: 5 * time.Minute, Algorithm: m.Algorithm()}, "dockit")
		if err != nil {
			return err
		}
		i.report.Services++
	case err != nil:
		return err
	}
	has, err := i.b.HasKey(ctx, s, m.KID())
	if err != nil {
		return err
	}
	if has {
		i.report.Unchanged++
		return nil
	}
	row, err := m.SigningKey(s, metadata.KeyImported, i.b.Now(), i.life)
	if err != nil {
		i.kept("the signing key: %v", err)
		return nil
	}
	i.report.Keys++
	return i.b.ImportKey(ctx, importer, s, row, "dockit")
}
