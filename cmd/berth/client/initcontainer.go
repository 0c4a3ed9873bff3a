package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
)

// dockitRemote is a server that is named as Dockit's commands name theirs: by the
// URL under which /token, /certs and /admin are.
type dockitRemote struct {
	baseURL  string
	ca       string
	insecure bool
	// names are the environment variables of the URL, first come first served.
	names []string
}

func (d *dockitRemote) addFlags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&d.baseURL, "base-url", "", "the server's URL, with its path /v2 (default $"+strings.Join(d.names, ", else $")+", else $BERTH_SERVER, else http://localhost:5000/v2)")
	f.StringVar(&d.ca, "ca", "", "PEM file of the authorities that may have signed the server's certificate (default: the system's)")
	f.BoolVar(&d.insecure, "insecure", false, "do not verify the server's certificate (DOCKIT_INSECURE)")
}

// FirstEnv is the value of the first variable that is set.
func FirstEnv(names ...string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

// url is the server's base URL, without a slash at its end.
func (d *dockitRemote) url() (*url.URL, error) {
	s := d.baseURL
	if s == "" {
		s = FirstEnv(append(d.names, "BERTH_SERVER")...)
	}
	if s == "" {
		s = "http://localhost:5000/v2"
	}
	path := ""
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		path, u.Path = strings.TrimRight(u.Path, "/"), ""
		s = u.String()
	}
	u, err := parseServer(s)
	if err != nil {
		return nil, err
	}
	if path == "" {
		path = "/v2"
	}
	u.Path = path
	return u, nil
}

// client speaks to the server, and verifies its certificate unless told otherwise.
func (d *dockitRemote) client(cmd *cobra.Command) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: d.insecure || !cmd.Flags().Changed("insecure") && FirstEnv("DOCKIT_INSECURE", "DOCKIT_GRANT_INSECURE") == "true"}
	if d.ca != "" {
		text, err := cli.ReadSmallFile(d.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca: %s has no certificate in PEM", d.ca)
		}
	}
	return newHTTPClient(newTransport(conf)), nil
}

// NewInitContainerCommand makes 'berth init-container'.
func NewInitContainerCommand() *cobra.Command {
	d := &dockitRemote{names: []string{"DOCKIT_BASE_URL", "DOCKIT_INITCONTAINER_BASE_URL"}}
	var service string
	c := &cobra.Command{
		Use:   "init-container FILE",
		Short: "Fetch the certificates that a registry needs to trust Berth's tokens",
		Long: `Fetch the certificates of the keys that sign tokens into a file, as the setting rootcertbundle of
CNCF distribution wants it. Run it before that registry starts: in Kubernetes as an init
container that shares a volume with it.

The file is there whole or not at all. When anything is wrong, the exit code is not 0 and a file
that is there already stays as it is.`,
		Example: `  berth init-container /bundle/berth.pem --base-url https://berth.example.com/v2
  berth init-container bundle.pem --service registry.example.com --ca ca.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			base, err := d.url()
			if err != nil {
				return err
			}
			client, err := d.client(cmd)
			if err != nil {
				return err
			}
			target := base.JoinPath("certs", "pem")
			if service != "" {
				target.RawQuery = url.Values{"service": {service}}.Encode()
			}
			bundle, n, err := fetchBundle(cmd.Context(), client, target.String())
			if err != nil {
				return err
			}
			if err := writeWhole(args[0], bundle); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s in %s\n", cli.Count(n, "certificate"), args[0])
			return nil
		},
	}
	d.addFlags(c)
	c.Flags().StringVar(&service, "service", "", "only what this service needs; without it, the certificates of all")
	return c
}

// MaxBundle is the largest bundle of certificates, in bytes.
const MaxBundle = 1 << 20

// fetchBundle gets certificates in PEM and nothing else, and their number.
func fetchBundle(ctx context.Context, client *http.Client, target string) ([]byte, int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, 0, explain(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBundle+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("%s answered %q: is --base-url right, with its path (/v2)?", target, resp.Status)
	case err != nil:
		return nil, 0, fmt.Errorf("the answer of %s ended early: %w", target, err)
	case len(body) > MaxBundle:
		return nil, 0, fmt.Errorf("the answer of %s is larger than %d bytes, which no bundle of certificates is", target, MaxBundle)
	}
	n := 0
	for rest := body; ; n++ {
		if rest = bytes.TrimSpace(rest); len(rest) == 0 && n > 0 {
			return body, n, nil
		}
		// pem.Decode would skip what is no PEM.
		var block *pem.Block
		if bytes.HasPrefix(rest, []byte("-----BEGIN")) {
			block, rest = pem.Decode(rest)
		}
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, 0, fmt.Errorf("the answer of %s is not certificates in PEM: is --base-url right?", target)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, 0, fmt.Errorf("a certificate in the answer of %s cannot be read: %w", target, err)
		}
	}
}

// writeWhole writes a file that everybody may read, so that it has its old content
// or the new one whatever happens.
func writeWhole(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".berth-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
