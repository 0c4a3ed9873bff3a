package aws

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// PasswordPrefix begins the password of CallerUser: what follows is the base64url
// (RFC 4648, section 5, without padding) of a pre-signed URL.
const PasswordPrefix = "berth-aws-v1."

// ServerHeader is the header that the signature covers beside the host. Its value
// names the registry, so that what was signed for another service, or another
// registry, is worth nothing here.
const ServerHeader = "X-Berth-Server-Id"

// MaxExpires is the longest life of a pre-signed request: what STS grants at most.
const MaxExpires = 15 * time.Minute

// maxURL bounds a pre-signed URL, in bytes: session tokens are about 1 KiB, and
// may grow.
const maxURL = 8 << 10

// Password makes the password from a URL of sts:GetCallerIdentity that was
// pre-signed for GET with ServerHeader among the signed headers.
func Password(presigned string) string {
	return PasswordPrefix + base64.RawURLEncoding.EncodeToString([]byte(presigned))
}

// presigned is a request that passed every check that can be made without AWS.
type presigned struct {
	url     string // written anew from what was checked
	expires time.Time
}

// The parameters of a pre-signed GetCallerIdentity, all of them: what is not
// named here is refused, whatever its case, so that nothing can make STS do or
// answer something else (compare CVE-2022-2385, CVE-2020-16250).
var parameters = map[string]*regexp.Regexp{
	"Action":               regexp.MustCompile(`^GetCallerIdentity$`),
	"Version":              regexp.MustCompile(`^2011-06-15$`),
	"X-Amz-Algorithm":      regexp.MustCompile(`^AWS4-HMAC-SHA256$`),
	"X-Amz-Credential":     regexp.MustCompile(`^[A-Z0-9]{16,128}/[0-9]{8}/[a-z0-9-]{1,32}/sts/aws4_request$`),
	"X-Amz-Date":           regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`),
	"X-Amz-Expires":        regexp.MustCompile(`^[1-9][0-9]{0,2}$`),
	"X-Amz-SignedHeaders":  regexp.MustCompile(`^host;x-berth-server-id$`),
	"X-Amz-Signature":      regexp.MustCompile(`^[0-9a-f]{64}$`),
	"X-Amz-Security-Token": regexp.MustCompile(`^[A-Za-z0-9+/=]+$`),
}

// hostRE is the global endpoint and those of the regions of the partition aws.
var hostRE = regexp.MustCompile(`^sts(\.(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[0-9]{1,2})?\.amazonaws\.com$`)

// parsePassword checks a password before anything is sent anywhere. hosts are
// endpoints beside AWS's own. The error is for the client.
func parsePassword(password string, hosts []string, now time.Time) (presigned, error) {
	encoded, ok := strings.CutPrefix(password, PasswordPrefix)
	if !ok || len(encoded) > base64.RawURLEncoding.EncodedLen(maxURL) {
		return presigned{}, fmt.Errorf("the password is not one that 'berth aws-token' prints")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return presigned{}, fmt.Errorf("the password is cut off: it is not base64url")
	}
	u, err := url.Parse(string(raw))
	if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" || u.Fragment != "" || u.Path != "/" && u.Path != "" || u.RawPath != "" {
		return presigned{}, fmt.Errorf("the signed request is not for https://sts.REGION.amazonaws.com/")
	}
	if !hostRE.MatchString(u.Host) && !slices.Contains(hosts, u.Host) {
		return presigned{}, fmt.Errorf("the signed request is for the host %.80q, and only AWS's own endpoints of STS are asked", u.Host)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return presigned{}, fmt.Errorf("the query of the signed request is malformed")
	}
	for name, values := range query {
		form, known := parameters[name]
		if !known || len(values) != 1 || !form.MatchString(values[0]) {
			return presigned{}, fmt.Errorf("the signed request has a parameter %.40q that a pre-signed GetCallerIdentity for this registry does not have in this form", name)
		}
	}
	for name := range parameters {
		if !query.Has(name) && name != "X-Amz-Security-Token" {
			return presigned{}, fmt.Errorf("the signed request lacks the parameter %s", name)
		}
	}
	signedAt, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	if err != nil {
		return presigned{}, fmt.Errorf("the date of the signed request is none")
	}
	life, err := time.ParseDuration(query.Get("X-Amz-Expires") + "s")
	if err != nil || life > MaxExpires {
		return presigned{}, fmt.Errorf("the signed request is valid for longer than %s", MaxExpires)
	}
	switch expires := signedAt.Add(life); {
	case signedAt.After(now.Add(clockSkew)):
		return presigned{}, fmt.Errorf("the signed request is from the future: set the clock of the machine that made it")
	case !now.Before(expires):
		return presigned{}, fmt.Errorf("the signed request has expired on %s: make a new one with 'berth aws-token'", expires.Format(time.RFC3339))
	default:
		return presigned{url: "https://" + u.Host + "/?" + query.Encode(), expires: expires}, nil
	}
}
