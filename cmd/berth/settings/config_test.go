package settings

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the generated pages")

func load(t *testing.T, args, environ []string) (*Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Load(flags, environ)
}

func TestConfigDefaults(t *testing.T) {
	c, err := load(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":5000" || c.DatabaseURL != "sqlite:berth-data/berth.db" || c.StorageURL != "file:berth-data/blobs" ||
		c.TagPolicy != "immutable" || strings.Join(c.TagExempt, " ") != "latest *-SNAPSHOT buildcache buildcache-* *-buildcache cache sha256-* sha512-*" || c.PublicRead || c.Explicit["tag_policy"] {
		t.Errorf("defaults: %+v", c)
	}
}

func TestConfigPrecedence(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "berth.yaml")
	write(t, file, "listen: :1\nmax_manifest_size: 8MiB\ntag_exempt: [dev, \"*-rc\"]\nupload_ttl: 2h\npublic_read: true\n")
	secret := filepath.Join(dir, "password")
	write(t, secret, "from a file\n")
	c, err := load(t, []string{"--upload-ttl=3h", "--public-read=false"},
		[]string{"BERTH_CONFIG=" + file, "BERTH_LISTEN=:2", "BERTH_ADMIN_PASSWORD_FILE=" + secret, "BERTH_UPLOAD_TTL=1h",
			"BERTH_SERVICE_HOST=10.0.0.1", "BERTH_PORT=tcp://10.0.0.1:5000", "BERTH_TYPO=1"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":2" || c.MaxManifestSize != 8<<20 || strings.Join(c.TagExempt, " ") != "dev *-rc" || c.UploadTTL != 3*time.Hour ||
		c.PublicRead || c.AdminPassword != "from a file" || !c.Explicit["tag_exempt"] {
		t.Errorf("%+v", c)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "BERTH_TYPO") {
		t.Errorf("warnings %q, want one about BERTH_TYPO and none about what Kubernetes sets", c.Warnings)
	}
}

func TestConfigReportsEverythingAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "berth.yaml")
	write(t, file, "lisen: :1\nlog_level: loud\n")
	_, err := load(t, []string{"--config", file, "--tls-cert=x"}, []string{
		"BERTH_LISTEN=5000", "BERTH_DATABASE_URL=mysql://root:hunter2@db/x", "BERTH_STORAGE_URL=/tmp", "BERTH_TAG_EXEMPT=a/b",
		"BERTH_MEMORY_BUDGET=lots", "BERTH_ADMIN_PASSWORD=short", "BERTH_URL=registry.example.com", "BERTH_TYPO=1"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"lisen", "log_level", "tls_key", "BERTH_LISTEN", "BERTH_DATABASE_URL", "BERTH_STORAGE_URL", "tag_exempt",
		"BERTH_MEMORY_BUDGET", "admin_password", "BERTH_URL", "BERTH_TYPO"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word about %s in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the password of the database is in:\n%v", err)
	}
}

// What settings of providers say together is checked at the start, all of it at once.
func TestProviderSettings(t *testing.T) {
	good := []string{
		"BERTH_OAUTH2_INTROSPECTION_URL=https://login.example.com/introspect", "BERTH_OAUTH2_CLIENT_ID=berth", "BERTH_OAUTH2_CLIENT_SECRET=s3cret-of-berth",
		"BERTH_LDAP_URL=ldaps://a, ldap://b:3890", "BERTH_LDAP_BASE_DN=dc=example,dc=org", "BERTH_LDAP_GROUP_BASE=ou=groups,dc=example,dc=org",
		"BERTH_LDAP_TEAMS=cn=devs,ou=groups,dc=example,dc=org=core:member; ops=ops:reader",
	}
	c, err := load(t, nil, good)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.LDAP.URLs) != 2 || !c.LDAP.StartTLS || c.LDAP.MaxFailures != 3 || c.OAuth2.CacheTTL != 2*time.Minute {
		t.Errorf("%+v", c)
	}
	for _, tt := range []struct {
		environ []string
		want    []string
	}{
		{[]string{"BERTH_OAUTH2_TOKENINFO_URL=http://tokens.example.com", "BERTH_OAUTH2_CACHE_TTL=1h", "BERTH_LDAP_TEAMS=devs", "BERTH_OAUTH2_CA_FILE=/does/not/exist"},
			[]string{"BERTH_OAUTH2_TOKENINFO_URL", "BERTH_OAUTH2_CACHE_TTL", "BERTH_LDAP_TEAMS", "oauth2_ca_file"}},
		{append(good, "BERTH_OAUTH2_TOKENINFO_URL=https://x/t", "BERTH_OAUTH2_POLICY_URL=https://x", "BERTH_OAUTH2_TEAM_CLAIM=groups", "BERTH_LDAP_BIND_DN=cn=x", "BERTH_LDAP_USER_FILTER=(uid=x)"),
			[]string{"both set", "oauth2_policy_url", "bind DN", "user filter"}},
		{[]string{"BERTH_OAUTH2_INTROSPECTION_URL=https://x/i"}, []string{"oauth2_client_id"}},
		{[]string{"BERTH_OAUTH2_TEAM_SERVICE_URL=https://x", "BERTH_LDAP_BASE_DN=dc=x"}, []string{"oauth2_team_service_url needs", "need ldap_url"}},
	} {
		_, err := load(t, nil, tt.environ)
		if err == nil {
			t.Errorf("%q: accepted", tt.environ)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("no word about %q in:\n%v", want, err)
			}
		}
		if strings.Contains(err.Error(), "s3cret-of-berth") {
			t.Errorf("a secret is in:\n%v", err)
		}
	}
	// In a file, a list of rules may be written as one.
	file := filepath.Join(t.TempDir(), "berth.yaml")
	write(t, file, "ldap_url: [ldaps://a]\nldap_base_dn: dc=x\nldap_group_base: dc=x\nldap_teams:\n  - cn=devs,dc=x=core:member\n  - team-*=*:reader\n")
	if c, err = load(t, []string{"--config", file}, nil); err != nil {
		t.Fatal(err)
	}
	if o, err := c.LDAP.Options(); err != nil || len(o.Teams) != 2 || o.Teams[0].Group != "cn=devs,dc=x" {
		t.Errorf("%+v, %v", o.Teams, err)
	}
}

func TestSizes(t *testing.T) {
	for text, n := range map[string]int64{"0B": 0, "5": 5, "512KiB": 512 << 10, "16MiB": 16 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40} {
		if got, err := ParseSize(text); err != nil || got != n {
			t.Errorf("parseSize(%q) = %d, %v", text, got, err)
		}
		if text != "5" && formatSize(n) != text {
			t.Errorf("formatSize(%d) = %q", n, formatSize(n))
		}
	}
	for _, text := range []string{"", "MiB", "-1MiB", "9999999999TiB", "1.5GiB", "x"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d", text, n)
		}
	}
}

// docs/config.md is what the table says. Run with -update to write it.
func TestConfigPage(t *testing.T) {
	const page = "../../../docs/config.md"
	want := configPage()
	if *update {
		write(t, page, want)
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != want {
		t.Errorf("docs/config.md is not what the table of settings says (%v): run go test ./cmd/berth/settings -run ConfigPage -update", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The bounds of a setting that the page and the help print are those that it enforces, both included.
func TestSettingsSayTheirBounds(t *testing.T) {
	bounds := regexp.MustCompile(`^(\S+) to (\S+)$`)
	count := 0
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(flags)
	for _, s := range All() {
		c := &Config{Explicit: map[string]bool{}}
		if words := strings.Split(s.takes, ", "); len(words) > 1 && words[0] != "list" {
			for _, word := range words {
				if err := s.Set(c, word); err != nil {
					t.Errorf("%s takes %s, but: %v", s.Key, s.takes, err)
				}
			}
		}
		m := bounds.FindStringSubmatch(s.takes)
		if m == nil {
			continue
		}
		count++
		for _, bound := range m[1:] {
			if err := s.Set(c, bound); err != nil {
				t.Errorf("%s takes %s, but: %v", s.Key, s.takes, err)
			}
		}
		unit := strings.TrimLeft(m[2], "0123456789")
		number, err := strconv.Atoi(strings.TrimSuffix(m[2], unit))
		if err != nil {
			t.Errorf("%s takes %q: %v", s.Key, s.takes, err)
			continue
		}
		for _, outside := range []string{strconv.Itoa(number+1) + unit, "-1" + unit} {
			if s.Set(c, outside) == nil {
				t.Errorf("%s takes %s, and %s", s.Key, s.takes, outside)
			}
		}
		if help := flags.Lookup(s.Flag()).Usage; !strings.Contains(help, s.takes) {
			t.Errorf("the help of --%s does not say %s: %s", s.Flag(), s.takes, help)
		}
		if !strings.Contains(configPage(), "| "+s.takes+" |") {
			t.Errorf("the page does not say that %s takes %s", s.Key, s.takes)
		}
	}
	if count < 25 {
		t.Errorf("only %d settings have bounds", count)
	}
	if !strings.Contains(configPage(), "10m to 2160h") { // of gc_grace
		t.Error("the bounds of gc_grace are not on the page")
	}
}

// A setting of a duration takes days and weeks.
func TestSettingsTakeDays(t *testing.T) {
	c, err := load(t, []string{"--gc-grace=10d", "--audit-retention=90d"}, []string{"BERTH_UNDO_WINDOW=2w", "BERTH_EXTERNAL_MAX_AGE=1d12h"})
	if err != nil {
		t.Fatal(err)
	}
	if c.GCGrace != 240*time.Hour || c.UndoWindow != 336*time.Hour || c.ExternalMaxAge != 36*time.Hour || c.AuditRetention != 90 {
		t.Errorf("%+v", c)
	}
	for _, args := range [][]string{{"--audit-retention=36h"}, {"--gc-grace=91d"}, {"--gc-grace=10 days"}} {
		if _, err := load(t, args, nil); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
