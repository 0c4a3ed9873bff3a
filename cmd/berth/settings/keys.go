package settings

import (
	"fmt"
	"strings"
	"time"

	"berth/auth/token"
)

// keySettings are those of the keys that sign tokens.
func keySettings() []Setting {
	return []Setting{
		enumSetting("token_algorithm", token.ES256, "algorithm of the keys that are made for Berth's own tokens; another one is a rotation at the next start", func(c *Config) *string { return &c.TokenAlgorithm }, token.Algorithms()...),
		durationSetting("key_publish_delay", "24h", "how long a new key is published before it signs, unless the rotation says otherwise; a registry reads the PEM bundle only when it starts", func(c *Config) *time.Duration { return &c.KeyPublishDelay }, 0, 90*24*time.Hour),
		durationSetting("key_certificate_life", "17520h", "life of the certificates made for keys; a key is replaced when a tenth of it is left", func(c *Config) *time.Duration { return &c.KeyCertificateLife }, 24*time.Hour, 10*365*24*time.Hour),
		KeyFilesSetting("token_key_file", "PEM file with the private key of Berth's own tokens, and behind a colon that of its certificates, if they stand apart; read again when it changes", func(c *Config) *[]token.KeyFile { return &c.TokenKeyFile }, false),
		KeyFilesSetting("service_key_files", "the same for services, as NAME=KEY or NAME=KEY:CERTIFICATES, separated by commas; the name * is every service without a file of its own", func(c *Config) *[]token.KeyFile { return &c.ServiceKeyFiles }, true),
	}
}

// KeyFilesSetting reads KEY[:CERTIFICATES], or a list of NAME=KEY[:CERTIFICATES].
func KeyFilesSetting(key, help string, field func(*Config) *[]token.KeyFile, named bool) Setting {
	return Setting{Key: key, help: help,
		Set: func(c *Config, v string) error {
			var list []token.KeyFile
			for _, part := range strings.Split(v, ",") {
				if part = strings.TrimSpace(part); part == "" {
					continue
				}
				var f token.KeyFile
				if named {
					var ok bool
					if f.Service, part, ok = strings.Cut(part, "="); !ok || f.Service == "" {
						return fmt.Errorf("%q is not NAME=KEY or NAME=KEY:CERTIFICATES", part)
					}
				} else if len(list) > 0 {
					return fmt.Errorf("%q are several files: give one", v)
				}
				f.Key, f.Certificates, _ = strings.Cut(part, ":")
				if f.Key == "" {
					return fmt.Errorf("%q names no file", v)
				}
				for _, other := range list {
					if other.Service == f.Service {
						return fmt.Errorf("the service %q has two files", f.Service)
					}
				}
				list = append(list, f)
			}
			*field(c) = list
			return nil
		},
		Get: func(c *Config) string {
			var parts []string
			for _, f := range *field(c) {
				part := f.Key
				if f.Certificates != "" {
					part += ":" + f.Certificates
				}
				if named {
					part = f.Service + "=" + part
				}
				parts = append(parts, part)
			}
			return strings.Join(parts, ",")
		}}
}
