// Package settings is the one table of what an operator can set. It drives the file, the environment, the
// flags, docs/config.md and 'berth help settings'. Start with All, which lists the settings, and Load.
package settings

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"berth/api"
	"berth/auth/token"
	"berth/cmd/berth/cli"
	"berth/metadata"
	"berth/people"
	"berth/server"
	"berth/storage"
)

// Config is everything an operator can set. It stops in this package: the
// packages below get small option structs of their own.
type Config struct {
	Listen             string
	URL                string
	TrustProxy         string // see proxies
	ReadOnly           bool
	DataDir            string
	DatabaseURL        string
	DatabaseConns      int
	DatabaseTimeout    time.Duration
	DatabasePooled     bool
	StorageURL         string
	StorageFallbackURL string
	StorageTimeout     time.Duration
	StorageRedirect    bool
	RedirectTTL        time.Duration
	PartSize           int64
	MemoryBudget       int64
	budget             *storage.Budget // made of it when it is first needed
	AdminPassword      string
	PublicRead         bool
	Challenge          string
	Visibility         string
	TagPolicy          string
	TagExempt          []string
	SparseIndex        bool
	MaxManifestSize    int64
	UploadTTL          time.Duration
	MaxUploads         int
	GCGrace            time.Duration
	UntaggedTTL        time.Duration
	UndoWindow         time.Duration
	AuditRetention     int // days
	RetentionInterval  time.Duration
	BackupURL          string
	TargetDatabaseURL  string
	TargetStorageURL   string
	TokenTTL           time.Duration
	ExternalMaxAge     time.Duration
	StallTimeout       time.Duration
	DrainTime          time.Duration
	ShutdownTimeout    time.Duration
	MetricsListen      string
	TLSCert            string
	TLSKey             string
	LogFormat          string
	LogLevel           string

	// Outside providers of identities, each with a file of settings.

	OAuth2 OAuth2Config
	OIDC   OIDCConfig
	AWS    AWSConfig
	LDAP   LDAPConfig

	TokenAlgorithm     string
	KeyPublishDelay    time.Duration
	KeyCertificateLife time.Duration
	TokenKeyFile       []token.KeyFile
	ServiceKeyFiles    []token.KeyFile

	// Explicit holds the keys that somebody has set, as opposed to defaults.
	Explicit map[string]bool
	// Warnings are oddities that do not stop the server, to be logged.
	Warnings []string
}

// Setting is a row of the one table that drives the file, the environment, the
// flags, docs/config.md and --help. Its name in the file is key; the
// environment has BERTH_ and the key in upper case; the flag has dashes.
type Setting struct {
	Key     string
	initial string // the default, as it would be written
	shown   string // how the docs show the default, when not as written
	help    string
	takes   string // the values that are taken: bounds, or words; "" where help says it
	Secret  bool   // not printed, and also taken from BERTH_<KEY>_FILE
	Set     func(*Config, string) error
	Get     func(*Config) string
}

// Env is the environment variable of the setting, and Flag its flag, without the dashes before it.
func (s Setting) Env() string  { return "BERTH_" + strings.ToUpper(s.Key) }
func (s Setting) Flag() string { return strings.ReplaceAll(s.Key, "_", "-") }

// All lists every setting in the order of the docs.
func All() []Setting {
	return slices.Concat(coreSettings(), keySettings(), oauth2Settings(), ldapSettings(), oidcSettings(), awsSettings())
}

func coreSettings() []Setting {
	return []Setting{
		stringSetting("listen", ":5000", "address to listen on, host:port", func(c *Config) *string { return &c.Listen }, validListen),
		stringSetting("url", "", "external URL, used in challenges and links; without it each request's own host is used", func(c *Config) *string { return &c.URL }, validURL),
		stringSetting("trust_proxy", "false", "whose X-Forwarded-For, -Proto, -Host and -Port, or Forwarded, are believed: false, nobody's; networks of proxies, separated by commas; true, those of whoever connects, only where nobody reaches the server past the proxy", func(c *Config) *string { return &c.TrustProxy }, validProxies),
		boolSetting("read_only", "false", "refuse every change, and run no background jobs; pulling and signing in go on. For moving to another database and store", func(c *Config) *bool { return &c.ReadOnly }),
		stringSetting("data_dir", "./berth-data", "directory of the embedded database and of the blobs", func(c *Config) *string { return &c.DataDir }, nil),
		secret(stringSetting("database_url", "", "postgres://user:password@host:5432/name, or sqlite:/path/to/file", func(c *Config) *string { return &c.DatabaseURL }, ValidDatabase), "`sqlite:` file `berth.db` in the data directory"),
		intSetting("database_conns", "16", "connections to Postgres at most, per replica; and up to as many again for what may be lost in a power failure, such as the progress of uploads", func(c *Config) *int { return &c.DatabaseConns }, 2, 1000),
		durationSetting("database_timeout", "15s", "how long a statement may wait for a connection to Postgres and for its answer; after that the request gets 503, and connections that do not answer are replaced. A connection whose bytes nobody acknowledges breaks after half of it", func(c *Config) *time.Duration { return &c.DatabaseTimeout }, time.Second, 10*time.Minute),
		boolSetting("database_pooled", "false", "the database URL leads to a pooler that gives each transaction another session, such as pgbouncer with pool_mode=transaction", func(c *Config) *bool { return &c.DatabasePooled }),
		shown(stringSetting("storage_url", "", "file:/path, or s3://bucket/prefix?endpoint=http://host:9000&region=us-east-1&path_style=true; credentials from the AWS chain", func(c *Config) *string { return &c.StorageURL }, ValidStorage), "`file:` directory `blobs` in the data directory"),
		stringSetting("storage_fallback_url", "", "a second store, as storage_url, that is read for what the first one does not have, and deleted from; while the objects move from one to the other", func(c *Config) *string { return &c.StorageFallbackURL }, ValidStorage),
		durationSetting("storage_timeout", "10s", "how long S3 may neither take nor send a byte, and what one operation has with all its attempts, besides the time that its bytes take at 512 KiB/s; after that the request gets 503", func(c *Config) *time.Duration { return &c.StorageTimeout }, time.Second, 10*time.Minute),
		boolSetting("storage_redirect", "false", "answer a GET of a blob with 307 to a presigned URL of the bucket, whose host name must not be the registry's or below it", func(c *Config) *bool { return &c.StorageRedirect }),
		durationSetting("storage_redirect_ttl", "20m", "how long a presigned URL is valid", func(c *Config) *time.Duration { return &c.RedirectTTL }, time.Second, 7*24*time.Hour),
		sizeSetting("storage_part_size", "8MiB", "size of a part of an S3 multipart upload; grows by itself for blobs of more than 8 GiB, up to half of memory_budget; 10,000 parts are the most", func(c *Config) *int64 { return &c.PartSize }, 5<<20, 512<<20),
		sizeSetting("memory_budget", "64MiB", "buffers of all uploads, and large manifests that are pushed, together; clients wait when it is spent. On S3 it also bounds the largest blob: 64MiB allow 320 GiB, 256MiB 1 TiB", func(c *Config) *int64 { return &c.MemoryBudget }, 16<<20, 1<<40),
		stringSetting("backup_url", "", "where backups go that the management API starts: a directory, or s3://bucket/prefix; without it the API makes none", func(c *Config) *string { return &c.BackupURL }, nil),
		secret(stringSetting("target_database_url", "", "empty database, as database_url, in which the management API makes another registry by migrating this one or restoring its backup; without it the API does neither", func(c *Config) *string { return &c.TargetDatabaseURL }, ValidDatabase), ""),
		stringSetting("target_storage_url", "", "store of that registry, as storage_url", func(c *Config) *string { return &c.TargetStorageURL }, ValidStorage),
		secret(stringSetting("admin_password", "", "password of the user admin, of 8 characters at least; made when the database has no user yet, and ignored after that", func(c *Config) *string { return &c.AdminPassword }, nil), "made and printed once at the first start"),
		boolSetting("public_read", "false", "let everybody pull every repository without signing in", func(c *Config) *bool { return &c.PublicRead }),
		enumSetting("challenge", "bearer", "how /v2/ asks for a sign-in: bearer is what docker and all others expect; basic is for clients that know nothing else, such as those of d.ims.io and Pier One; of both, several clients take the first and stop", func(c *Config) *string { return &c.Challenge }, "bearer", "basic", "both"),
		enumSetting("default_visibility", "private", "visibility of new repositories whose team sets none", func(c *Config) *string { return &c.Visibility }, "public", "internal", "private"),
		enumSetting("tag_policy", "immutable", "the instance's tag policy; teams and repositories may set their own", func(c *Config) *string { return &c.TagPolicy }, "mutable", "immutable", "sealed"),
		listSetting("tag_exempt", "latest,*-SNAPSHOT,buildcache,buildcache-*,*-buildcache,cache,sha256-*,sha512-*", "tags that the instance's policy leaves mutable; * and ? are wildcards", func(c *Config) *[]string { return &c.TagExempt }),
		boolSetting("sparse_index", "false", "accept an index whose children are not pushed", func(c *Config) *bool { return &c.SparseIndex }),
		sizeSetting("max_manifest_size", "4MiB", "largest manifest; the specification asks for 4 MiB at least", func(c *Config) *int64 { return &c.MaxManifestSize }, 4<<20, 64<<20),
		durationSetting("upload_ttl", "24h", "an upload that rests for so long is given up", func(c *Config) *time.Duration { return &c.UploadTTL }, time.Minute, 30*24*time.Hour),
		intSetting("max_uploads", "1000", "uploads that a user, robot or machine may have open at a time; a further one is 429 TOOMANYREQUESTS until one ends", func(c *Config) *int { return &c.MaxUploads }, 1, 1000000),
		durationSetting("gc_grace", "24h", "how long what nothing refers to stays; a push has to be complete within that time", func(c *Config) *time.Duration { return &c.GCGrace }, 10*time.Minute, 90*24*time.Hour),
		durationSetting("untagged_ttl", "0s", "how long a manifest lives that no tag, index or subject holds; 0s keeps it", func(c *Config) *time.Duration { return &c.UntaggedTTL }, 0, 10*365*24*time.Hour),
		durationSetting("undo_window", "24h", "how long a deleted tag or manifest can be restored; 0s: not at all", func(c *Config) *time.Duration { return &c.UndoWindow }, 0, 90*24*time.Hour),
		durationSetting("retention_interval", "24h", "how often the retention rules of teams and repositories are applied", func(c *Config) *time.Duration { return &c.RetentionInterval }, 10*time.Minute, 30*24*time.Hour),
		daysSetting("audit_retention", "365", "how long the audit log is kept, in days or as a duration such as 90d; 0 keeps it for ever", func(c *Config) *int { return &c.AuditRetention }, 0, 36500),
		durationSetting("token_ttl", "5m", "life of the tokens that /token hands to clients", func(c *Config) *time.Duration { return &c.TokenTTL }, time.Minute, time.Hour),
		durationSetting("external_max_age", "720h", "how long the word of an identity provider about a user counts; after that the user's tokens are refused until the next sign-in there", func(c *Config) *time.Duration { return &c.ExternalMaxAge }, time.Hour, 10*365*24*time.Hour),
		durationSetting("stall_timeout", "2m", "a client that sends or takes no byte for so long is cut off", func(c *Config) *time.Duration { return &c.StallTimeout }, time.Second, time.Hour),
		durationSetting("drain_time", "0s", "how long a stopping server still takes requests while /readyz says that it stops; longer than a balancer needs to see that", func(c *Config) *time.Duration { return &c.DrainTime }, 0, 10*time.Minute),
		durationSetting("shutdown_timeout", "30s", "how long a stopping server then waits for what is in flight; uploads that are not through are cut off, and go on elsewhere", func(c *Config) *time.Duration { return &c.ShutdownTimeout }, 0, time.Hour),
		shown(stringSetting("metrics_listen", "", "separate address for /metrics, host:port", func(c *Config) *string { return &c.MetricsListen }, validListen), "the same listener, `/metrics`"),
		stringSetting("tls_cert", "", "PEM file of the certificate chain; read again when it changes", func(c *Config) *string { return &c.TLSCert }, nil),
		stringSetting("tls_key", "", "PEM file of the certificate's key", func(c *Config) *string { return &c.TLSKey }, nil),
		enumSetting("log_format", "text", "form of the log lines", func(c *Config) *string { return &c.LogFormat }, "text", "json"),
		enumSetting("log_level", "info", "least level that is logged", func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error"),
	}
}

func stringSetting(key, initial, help string, field func(*Config) *string, check func(string) error) Setting {
	return Setting{Key: key, initial: initial, help: help,
		Set: func(c *Config, v string) error {
			if check != nil && v != "" {
				if err := check(v); err != nil {
					return err
				}
			}
			*field(c) = v
			return nil
		},
		Get: func(c *Config) string { return *field(c) }}
}

func enumSetting(key, initial, help string, field func(*Config) *string, values ...string) Setting {
	s := stringSetting(key, initial, help, field, nil)
	s.takes = strings.Join(values, ", ")
	s.Set = func(c *Config, v string) error {
		if v != initial && !slices.Contains(values, v) {
			return fmt.Errorf("%q is not one of %s", v, strings.Join(values, ", "))
		}
		*field(c) = v
		return nil
	}
	return s
}

func listSetting(key, initial, help string, field func(*Config) *[]string) Setting {
	return Setting{Key: key, initial: initial, help: help, takes: "list, separated by commas",
		Set: func(c *Config, v string) error {
			list := []string{}
			for _, part := range strings.Split(v, ",") {
				if part = strings.TrimSpace(part); part != "" {
					list = append(list, part)
				}
			}
			*field(c) = list
			return nil
		},
		Get: func(c *Config) string { return strings.Join(*field(c), ",") }}
}

func boolSetting(key, initial, help string, field func(*Config) *bool) Setting {
	return Setting{Key: key, initial: initial, help: help, takes: "true, false",
		Set: func(c *Config, v string) error {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%q is not true or false", v)
			}
			*field(c) = b
			return nil
		},
		Get: func(c *Config) string { return strconv.FormatBool(*field(c)) }}
}

func intSetting(key, initial, help string, field func(*Config) *int, low, high int) Setting {
	return Setting{Key: key, initial: initial, help: help, takes: between(strconv.Itoa(low), strconv.Itoa(high)),
		Set: func(c *Config, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < low || n > high {
				return fmt.Errorf("%q is not a number from %d to %d", v, low, high)
			}
			*field(c) = n
			return nil
		},
		Get: func(c *Config) string { return strconv.Itoa(*field(c)) }}
}

func durationSetting(key, initial, help string, field func(*Config) *time.Duration, low, high time.Duration) Setting {
	return Setting{Key: key, initial: initial, help: help, takes: between(api.FormatDuration(low), api.FormatDuration(high)),
		Set: func(c *Config, v string) error {
			d, err := api.ParseDuration(v)
			if err != nil || d < low || d > high {
				return fmt.Errorf("%q is not a duration from %s to %s, such as 90s, 24h or 10d", v, api.FormatDuration(low), api.FormatDuration(high))
			}
			*field(c) = d
			return nil
		},
		Get: func(c *Config) string { return field(c).String() }}
}

// daysSetting takes a number of days, or a duration of whole days.
func daysSetting(key, initial, help string, field func(*Config) *int, low, high int) Setting {
	s := intSetting(key, initial, help, field, low, high)
	number := s.Set
	s.Set = func(c *Config, v string) error {
		const day = 24 * time.Hour
		if d, err := api.ParseDuration(v); err == nil && d%day == 0 {
			v = strconv.Itoa(int(d / day))
		}
		return number(c, v)
	}
	return s
}

func sizeSetting(key, initial, help string, field func(*Config) *int64, low, high int64) Setting {
	return Setting{Key: key, initial: initial, help: help, takes: between(formatSize(low), formatSize(high)),
		Set: func(c *Config, v string) error {
			n, err := ParseSize(v)
			if err != nil || n < low || n > high {
				return fmt.Errorf("%q is not a size from %s to %s, such as 512KiB, 16MiB or 1GiB", v, formatSize(low), formatSize(high))
			}
			*field(c) = n
			return nil
		},
		Get: func(c *Config) string { return formatSize(*field(c)) }}
}

// between is how the bounds of a setting are written; both are taken.
func between(low, high string) string { return low + " to " + high }

func secret(s Setting, shown string) Setting {
	s.Secret, s.shown = true, shown
	return s
}

func shown(s Setting, text string) Setting {
	s.shown = text
	return s
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads a number of bytes, with one of the units B, KiB, MiB, GiB and TiB or without.
func ParseSize(v string) (int64, error) {
	for _, u := range sizeUnits {
		if num, ok := strings.CutSuffix(v, u.suffix); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
			if err != nil || n < 0 || n > (1<<62)/u.bytes {
				return 0, fmt.Errorf("%q is not a size", v)
			}
			return n * u.bytes, nil
		}
	}
	return strconv.ParseInt(v, 10, 64)
}

func formatSize(n int64) string {
	for _, u := range sizeUnits {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

func validListen(v string) error {
	if _, port, err := net.SplitHostPort(v); err != nil || port == "" {
		return fmt.Errorf("%q is not host:port, such as :5000 or 127.0.0.1:5000", v)
	}
	return nil
}

func validURL(v string) error {
	u, err := url.Parse(v)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q is not a URL of the form https://registry.example.com", v)
	}
	return nil
}

func validProxies(v string) error {
	_, err := Proxies(v)
	return err
}

// Proxies reads trust_proxy.
func Proxies(v string) (server.Proxies, error) {
	if all, err := strconv.ParseBool(v); err == nil && all {
		return server.AnyProxy(), nil
	} else if err == nil || v == "" {
		return server.Proxies{}, nil
	}
	p, err := server.ParseProxies(v)
	if err != nil {
		err = fmt.Errorf("write true, false, or the networks of your proxies: %w", err)
	}
	return p, err
}

// ValidDatabase refuses what is no URL of a database, and never repeats it.
func ValidDatabase(v string) error {
	for _, prefix := range []string{"postgres://", "postgresql://", "sqlite:"} {
		if strings.HasPrefix(v, prefix) {
			return nil
		}
	}
	return errors.New("the URL has to start with sqlite: or postgres://, see docs/config.md") // the value may hold a password
}

// ValidStorage refuses what is no URL of a store, and never repeats it.
func ValidStorage(v string) error {
	if strings.HasPrefix(v, "file:") || strings.HasPrefix(v, "s3://") {
		return nil
	}
	return errors.New("the URL has to start with file: or s3://, see docs/config.md") // the value may be a database's, with a password
}

// AddFlags gives a command the flags of all settings and --config.
func AddFlags(flags *pflag.FlagSet) {
	flags.String("config", "", "YAML file of settings (BERTH_CONFIG)")
	for _, s := range All() {
		help := s.help + " (" + s.Env() + ")"
		if s.takes != "" {
			help += "; " + s.takes
		}
		if s.initial != "" {
			help += "; default " + s.initial
		}
		flags.String(s.Flag(), "", help)
		flags.Lookup(s.Flag()).Annotations = map[string][]string{SettingFlag: {s.Key}}
		if _, err := strconv.ParseBool(s.initial); err == nil {
			flags.Lookup(s.Flag()).NoOptDefVal = "true"
		}
	}
}

// Load reads the settings: file < environment < flags. It returns every
// problem at once.
func Load(flags *pflag.FlagSet, environ []string) (*Config, error) {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	var problems []error
	path := env["BERTH_CONFIG"]
	if f := flags.Lookup("config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	file, err := readConfigFile(path)
	if err != nil {
		problems = append(problems, err)
	}
	known := map[string]bool{"BERTH_CONFIG": true}
	c := &Config{Explicit: map[string]bool{}}
	for _, s := range All() {
		value, from := s.initial, "default"
		if v, ok := file[s.Key]; ok {
			value, from = v, path+": "+s.Key
		}
		delete(file, s.Key)
		known[s.Env()] = true
		v, direct := env[s.Env()]
		if direct {
			value, from = v, s.Env()
		}
		if s.Secret {
			known[s.Env()+"_FILE"] = true
			if name := env[s.Env()+"_FILE"]; name != "" {
				if direct {
					problems = append(problems, fmt.Errorf("%s and %s_FILE are both set: set one of them", s.Env(), s.Env()))
				}
				b, err := cli.ReadSmallFile(name)
				if err != nil {
					problems = append(problems, fmt.Errorf("%s_FILE: %w", s.Env(), err))
				}
				value, from = strings.TrimRight(string(b), "\r\n"), s.Env()+"_FILE"
			}
		}
		if f := flags.Lookup(s.Flag()); f != nil && f.Changed {
			value, from = f.Value.String(), "--"+s.Flag()
		}
		c.Explicit[s.Key] = from != "default"
		if err := s.Set(c, value); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", from, err))
		}
	}
	for key := range file {
		problems = append(problems, fmt.Errorf("%s: there is no setting %q", path, key))
	}
	for name := range env {
		if strings.HasPrefix(name, "BERTH_") && !known[name] && !ClientVariable(name) {
			c.Warnings = append(c.Warnings, "there is no setting "+name+", it is ignored")
		}
	}
	if c.StorageFallbackURL != "" && c.StorageRedirect {
		problems = append(problems, errors.New("storage_redirect cannot be on while storage_fallback_url is set: a link has to say which store has the object"))
	}
	if (c.TargetDatabaseURL == "") != (c.TargetStorageURL == "") {
		problems = append(problems, errors.New("target_database_url and target_storage_url have to be set together"))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		problems = append(problems, errors.New("tls_cert and tls_key have to be set together"))
	}
	if c.AdminPassword != "" && len(c.AdminPassword) < people.MinPassword {
		problems = append(problems, fmt.Errorf("admin_password is shorter than %d characters", people.MinPassword))
	}
	problems = append(problems, c.OAuth2.problems()...)
	problems = append(problems, c.LDAP.problems()...)
	policy := metadata.TagPolicy{Mode: c.TagPolicy, Exempt: c.TagExempt}
	if err := policy.Validate(); err != nil && c.TagPolicy != "" { // "" is one that was refused above
		problems = append(problems, fmt.Errorf("tag_exempt: %w", err))
	}
	problems = append(problems, c.OIDC.check()...)
	problems = append(problems, c.AWS.check(c)...)
	sort.Slice(problems, func(i, j int) bool { return problems[i].Error() < problems[j].Error() })
	sort.Strings(c.Warnings)
	if len(problems) > 0 {
		for _, w := range c.Warnings {
			problems = append(problems, errors.New(w))
		}
		return nil, errors.Join(problems...)
	}
	if c.DatabaseURL == "" {
		c.DatabaseURL = "sqlite:" + filepath.Join(c.DataDir, "berth.db")
	}
	if c.StorageURL == "" {
		c.StorageURL = "file:" + filepath.Join(c.DataDir, "blobs")
	}
	return c, nil
}

// What a URL may hold that is not to be printed: a user with a password, also within a parameter, and parameters by their names.
var (
	userinfo    = regexp.MustCompile(`(://|%3[Aa]%2[Ff]%2[Ff])[^?#&\s]*(@|%40)`)
	secretParam = regexp.MustCompile(`(?i)([?&][^=&#\s]*(?:password|passwd|secret|token|signature|credential|key)[^=&#\s]*=)[^&#\s,]*`)
)

// MaskURLs gives a setting as it can be printed.
func MaskURLs(value string) string {
	return secretParam.ReplaceAllString(userinfo.ReplaceAllString(value, "${1}***${2}"), "${1}***")
}

// ClientVariable tells the variables that are not the server's: those of the
// client verbs, and those that Kubernetes sets for a Service named berth.
func ClientVariable(name string) bool {
	switch name {
	case "BERTH_SERVER", "BERTH_USERNAME", "BERTH_PASSWORD", "BERTH_CA":
		return true
	}
	return strings.HasPrefix(name, "BERTH_TEST_") ||
		strings.HasPrefix(name, "BERTH_SERVICE_") || strings.HasPrefix(name, "BERTH_PORT")
}

func readConfigFile(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	b, err := cli.ReadSmallFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the settings: %w", err)
	}
	var nodes map[string]yaml.Node
	if err := yaml.Unmarshal(b, &nodes); err != nil {
		return nil, fmt.Errorf("reading the settings of %s: %w", path, err)
	}
	values := map[string]string{}
	for key, node := range nodes {
		switch node.Kind {
		case yaml.ScalarNode:
			values[key] = node.Value
		case yaml.SequenceNode:
			var list []string
			if err := node.Decode(&list); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", path, key, err)
			}
			values[key] = strings.Join(list, ",")
		default:
			return nil, fmt.Errorf("%s: %s has to be a value or a list", path, key)
		}
	}
	return values, nil
}

// configPage is docs/config.md.
func configPage() string {
	var b strings.Builder
	b.WriteString(`# Settings

Made from the table in cmd/berth/settings/config.go by ` + "`go test ./cmd/berth/settings -run ConfigPage -update`" + `.

A flag wins over the environment, which wins over the YAML file given by ` + "`--config`" + ` or ` + "`BERTH_CONFIG`" + `.
In the file a setting has the name in the first column. Secrets (marked \*) can also be read from a
file named by the variable with ` + "`_FILE`" + ` behind it. An unknown setting is an error; all errors are
reported at once (an unknown variable only gives a warning, for the environment is shared). ` + "`berth config`" + ` prints what is in force, without secrets.

The column "takes" has the bounds, both included, or the words that are taken. A duration is written as 90s, 5m,
24h, 10d, 2w or 1d12h; a size as 512KiB, 16MiB or 1GiB.

| file | environment | flag | default | takes | meaning |
|---|---|---|---|---|---|
`)
	for _, s := range All() {
		def := s.shown
		if def == "" && s.initial != "" {
			def = "`" + s.initial + "`"
		}
		mark := ""
		if s.Secret {
			mark = " \\*"
		}
		fmt.Fprintf(&b, "| `%s`%s | `%s` | `--%s` | %s | %s | %s |\n", s.Key, mark, s.Env(), s.Flag(), def, s.takes, s.help)
	}
	return b.String()
}

// SharedBudget is the memory of all that moves bytes in this process.
func (c *Config) SharedBudget() *storage.Budget {
	if c.budget == nil {
		c.budget = storage.NewBudget(c.MemoryBudget)
	}
	return c.budget
}
