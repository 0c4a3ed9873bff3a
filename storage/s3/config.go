package s3

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"berth/dial"
	"berth/storage"
)

// Config says where the bucket is and how to use it. Bucket is needed; the
// rest has defaults that work.
type Config struct {
	Endpoint string // host or host:port; empty: Amazon S3 in Region
	Insecure bool   // plain HTTP
	Bucket   string
	Prefix   string // of all keys, without slashes at its ends
	Region   string // empty: $AWS_REGION; else us-east-1 at an Endpoint, and asked for at Amazon

	// PathStyle puts the bucket into the path rather than into the host name,
	// as MinIO and most others need it.
	PathStyle bool

	// Credentials are looked for as AWS's programs do when nil: environment,
	// shared file, web identity token (IRSA), container, instance.
	Credentials *credentials.Credentials

	// PartSize is the size of the first 1,000 parts of a large upload, in
	// bytes: 5 MiB to 1 GiB, 8 MiB by default. It doubles with every further 1,000,
	// as far as the budget allows, since S3 takes 10,000 parts and the size of an upload is not
	// known before its end. 50 GiB need parts of 32 MiB; with a budget of 64 MiB
	// an object ends at 320 GiB, with 256 MiB at 1 TiB.
	PartSize int64

	// Parallel is how many parts of one upload are sent at a time, 3 by default.
	Parallel int

	// Budget is the memory for buffers, shared with other stores. Nil: one of
	// its own, of the default size.
	Budget *storage.Budget

	// Timeout is how long S3 may neither take nor send a byte, and what it has for one operation, all
	// attempts together, besides the time that its bytes take at 512 KiB/s; DefaultTimeout by default.
	// Attempts is how often a request is made within that time before its failure counts, 5 by default.
	Timeout  time.Duration
	Attempts int

	Logger *slog.Logger // of retries; nil: none
}

// DefaultTimeout is Config.Timeout where none is given.
const DefaultTimeout = 10 * time.Second

const (
	minPart  = 5 << 20 // of S3, for all parts but the last one
	maxParts = 10_000
	maxPart  = 4 << 30 // S3 allows 5 GiB
)

// ParseURL reads
//
//	s3://bucket/prefix?endpoint=http://host:9000&region=us-east-1&path_style=true
//
// The endpoint's scheme chooses between HTTP and HTTPS; without an endpoint it is
// Amazon's. part_size is in bytes. Credentials do not belong into the URL.
// [Config.URL] is the inverse.
func ParseURL(text string) (Config, error) {
	var c Config
	u, err := url.Parse(text)
	if err != nil {
		return c, fmt.Errorf("the S3 URL cannot be read: %w", err)
	}
	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case err != nil:
		return c, fmt.Errorf("the S3 URL's parameters cannot be read: %w", err)
	case u.Scheme != "s3":
		return c, fmt.Errorf("an S3 URL begins with s3://, not with %q", u.Scheme)
	case u.User != nil:
		return c, fmt.Errorf("the S3 URL has credentials in it; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	case u.Fragment != "" || u.Opaque != "":
		return c, fmt.Errorf("an S3 URL is s3://bucket/prefix?parameters")
	}
	c.Bucket = u.Host
	c.Prefix = strings.Trim(u.Path, "/")
	for name, values := range query {
		value := values[0]
		if len(values) > 1 {
			return c, fmt.Errorf("the S3 URL's parameter %s is there twice", name)
		}
		switch name {
		case "endpoint":
			if c.Endpoint, c.Insecure, err = parseEndpoint(value); err != nil {
				return c, err
			}
		case "region":
			c.Region = value
		case "path_style":
			if c.PathStyle, err = strconv.ParseBool(value); err != nil {
				return c, fmt.Errorf("the S3 URL's path_style is %q, want true or false", value)
			}
		case "part_size":
			if c.PartSize, err = strconv.ParseInt(value, 10, 64); err != nil || c.PartSize == 0 {
				return c, fmt.Errorf("the S3 URL's part_size is %q, want a number of bytes", value)
			}
		default:
			return c, fmt.Errorf("the S3 URL has an unknown parameter %q; known are endpoint, region, path_style and part_size", name)
		}
	}
	return c, c.check()
}

func parseEndpoint(text string) (host string, insecure bool, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", false, fmt.Errorf("the S3 endpoint is %q, want http://host:port or https://host", text)
	}
	return u.Host, u.Scheme == "http", nil
}

// URL is the text that [ParseURL] makes the same Config of, as far as a URL says it.
func (c Config) URL() string {
	q := url.Values{}
	if c.Endpoint != "" {
		scheme := "https://"
		if c.Insecure {
			scheme = "http://"
		}
		q.Set("endpoint", scheme+c.Endpoint)
	}
	if c.Region != "" {
		q.Set("region", c.Region)
	}
	if c.PathStyle {
		q.Set("path_style", "true")
	}
	if c.PartSize != 0 {
		q.Set("part_size", strconv.FormatInt(c.PartSize, 10))
	}
	u := url.URL{Scheme: "s3", Host: c.Bucket, Path: "/" + c.Prefix, RawQuery: q.Encode()}
	return u.String()
}

func (c Config) check() error {
	if len(c.Bucket) < 3 || len(c.Bucket) > 63 || strings.Trim(c.Bucket, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		return fmt.Errorf("the S3 bucket is %q, want 3 to 63 lower-case letters, digits, dots and hyphens", c.Bucket)
	}
	if strings.Trim(c.Region, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return fmt.Errorf("the S3 region is %q, want letters, digits and hyphens", c.Region)
	}
	if c.Prefix != "" {
		for part := range strings.SplitSeq(c.Prefix, "/") {
			if part == "" || part == "." || part == ".." {
				return fmt.Errorf("the S3 prefix is %q, want names with single slashes between them", c.Prefix)
			}
		}
		if len(c.Prefix) > 500 || !utf8.ValidString(c.Prefix) || strings.ContainsFunc(c.Prefix, unicode.IsControl) {
			return fmt.Errorf("the S3 prefix is %q, want at most 500 bytes of printable text", c.Prefix)
		}
	}
	if c.PartSize != 0 && (c.PartSize < minPart || c.PartSize > 1<<30) {
		return fmt.Errorf("the S3 part size is %d bytes, want 5 MiB to 1 GiB", c.PartSize)
	}
	return nil
}

// New makes a store of a bucket. When S3 says that the bucket does not exist
// that is an error; when S3 cannot be reached now, later may do.
func New(ctx context.Context, c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Region == "" {
		c.Region = os.Getenv("AWS_REGION")
	}
	if c.Endpoint == "" {
		c.Endpoint, c.Insecure = "s3.amazonaws.com", false
	} else if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.PartSize == 0 {
		c.PartSize = 8 << 20
	}
	if c.Parallel <= 0 {
		c.Parallel = 3
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Attempts <= 0 {
		c.Attempts = 5
	}
	if c.Budget == nil {
		c.Budget = storage.NewBudget(0)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Credentials == nil {
		c.Credentials = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{},
			&credentials.FileAWSCredentials{},
			// Where there is no metadata service nothing answers, either.
			&credentials.IAM{Client: &http.Client{Timeout: 3 * time.Second}, Region: c.Region},
		})
	}
	lookup := minio.BucketLookupAuto
	if c.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(c.Endpoint, &minio.Options{
		Creds:        c.Credentials,
		Secure:       !c.Insecure,
		Region:       c.Region,
		BucketLookup: lookup,
		Transport:    transport(c.Timeout),
		// Of requests without a body. Those with one are made again by [Store.send].
		MaxRetries: c.Attempts,
	})
	if err != nil {
		return nil, fmt.Errorf("the S3 client: %w", err)
	}
	core.SetAppInfo("berth", "1")
	s := &Store{config: c, core: core, parts: newPartSizes(c.PartSize, c.Budget.LeaseMax())}
	if c.Prefix != "" {
		s.prefix = c.Prefix + "/"
	}

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if there, err := core.BucketExists(ctx, c.Bucket); err != nil {
		c.Logger.Warn("the S3 bucket cannot be checked now", "bucket", c.Bucket, "error", err)
	} else if !there {
		return nil, fmt.Errorf("the S3 bucket %s does not exist at %s; create it first", c.Bucket, c.Endpoint)
	}
	return s, nil
}

func transport(timeout time.Duration) http.RoundTripper {
	connect := min(5*time.Second, timeout)
	return &silence{bound: timeout, base: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dial.New(connect, timeout/2).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   connect,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256,
		DisableCompression:    true, // objects are stored as they are
	}}
}

// partSizes is how large the parts of an upload are, and how many bytes have
// to be kept back so that the last one is large enough.
type partSizes struct{ first, max int64 }

// newPartSizes fits parts into the largest lease that there is: the budget has to
// hold a part and what is kept back.
func newPartSizes(first, leaseMax int64) partSizes {
	largest := leaseMax - minPart - 2*storage.BlockSize
	return partSizes{first: min(first, largest), max: min(maxPart, largest)}
}

// size is that of part i, counted from 0.
func (p partSizes) size(i int) int64 {
	return min(p.first<<min(i/1000, 20), p.max)
}

// limit is how many bytes may be pending before part i is sent: the part, and enough for
// another one.
func (p partSizes) limit(i int) int64 { return p.size(i) + minPart + storage.BlockSize }

// total is the size of the largest object.
func (p partSizes) total() int64 {
	var n int64
	for i := range maxParts {
		n += p.size(i)
	}
	return n
}
