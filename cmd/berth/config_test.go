package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the generated pages")

func load(t *testing.T, args, environ []string) (*config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	addFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadConfig(flags, environ)
}

func TestConfigDefaults(t *testing.T) {
	c, err := load(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":5000" || c.DatabaseURL != "sqlite:berth-data/berth.db" || c.StorageURL != "file:berth-data/blobs" ||
		c.TagPolicy != "immutable" || strings.Join(c.TagExempt, " ") != "latest *-SNAPSHOT" || c.PublicRead || c.Explicit["tag_policy"] {
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

func TestSizes(t *testing.T) {
	for text, n := range map[string]int64{"0B": 0, "5": 5, "512KiB": 512 << 10, "16MiB": 16 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40} {
		if got, err := parseSize(text); err != nil || got != n {
			t.Errorf("parseSize(%q) = %d, %v", text, got, err)
		}
		if text != "5" && formatSize(n) != text {
			t.Errorf("formatSize(%d) = %q", n, formatSize(n))
		}
	}
	for _, text := range []string{"", "MiB", "-1MiB", "9999999999TiB", "1.5GiB", "x"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d", text, n)
		}
	}
}

// docs/config.md is what the table says. Run with -update to write it.
func TestConfigPage(t *testing.T) {
	const page = "../../docs/config.md"
	want := configPage()
	if *update {
		write(t, page, want)
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != want {
		t.Errorf("docs/config.md is not what the table of settings says (%v): run go test ./cmd/berth -run ConfigPage -update", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
