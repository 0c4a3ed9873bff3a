package aws_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"berth/auth"
	"berth/auth/authtest"
	"berth/auth/aws"
	"berth/auth/aws/awstest"
	"berth/metadata"
	"berth/oci"
)

const (
	serverID = "registry.example.com"
	role     = "arn:aws:sts::" + account + ":assumed-role/ci-build/i-0123456789abcdef0"
	ciKey    = "ASIAROLEROLEROLEROLE"
)

// identities are known to the STS of the tests.
func identities() map[string]awstest.Identity {
	return map[string]awstest.Identity{
		ciKey:                  {Secret: "secret of the role", SessionToken: "session+token/==", Account: account, ARN: role},
		"AKIAUSERUSERUSERUSER": {Secret: "secret of the user", Account: account, ARN: "arn:aws:iam::" + account + ":user/people/ann"},
		"AKIAROOTROOTROOTROOT": {Secret: "secret of the root", Account: account, ARN: "arn:aws:iam::" + account + ":root"},
		"ASIAFEDERATEDUSER000": {Secret: "secret of a guest", Account: account, ARN: "arn:aws:sts::" + account + ":federated-user/guest"},
		"AKIAOTHEROTHEROTHER0": {Secret: "secret of another", Account: "210987654321", ARN: "arn:aws:iam::210987654321:user/eve"},
		"ASIAINSTANCEROLE0000": {Secret: "secret", Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/ops/x"},
	}
}

// presign signs as the AWS SDK does.
func presign(t testing.TB, sts *awstest.STS, key string, change func(r *http.Request)) string {
	t.Helper()
	return presignAt(t, sts, key, time.Now(), change)
}

func presignAt(t testing.TB, sts *awstest.STS, key string, at time.Time, change func(r *http.Request)) string {
	t.Helper()
	id := identities()[key]
	r, err := http.NewRequest("GET", "https://"+sts.Host()+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=900", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(aws.ServerHeader, serverID)
	if change != nil {
		change(r)
	}
	signed, _, err := v4.NewSigner().PresignHTTP(context.Background(),
		awssdk.Credentials{AccessKeyID: key, SecretAccessKey: id.Secret, SessionToken: id.SessionToken},
		r, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "sts", "eu-west-1", at)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func callers(t testing.TB, sts *awstest.STS, db *metadata.DB) *aws.Callers {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(sts.Certificate())
	a, err := aws.NewCallers(aws.CallerOptions{DB: db, ServerID: serverID, Hosts: []string{sts.Host()}, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func caller(password string) auth.Credentials {
	return auth.Credentials{Username: aws.CallerUser, Password: password}
}

// TestCallers is the contract of authenticators.
func TestCallers(t *testing.T) {
	authtest.Test(t, func(t *testing.T) authtest.Fixture {
		sts := awstest.New(t, identities())
		forged := strings.Replace(presign(t, sts, ciKey, nil), "X-Amz-Signature=", "X-Amz-Signature=0000", 1)
		forged = forged[:len(forged)-4]
		return authtest.Fixture{
			Authenticator: callers(t, sts, allow(t, metadata.Account{Account: account})),
			Good:          caller(aws.Password(presign(t, sts, ciKey, nil))),
			Who:           "aws:" + account + ":role/ci-build",
			Wrong:         []auth.Credentials{caller(aws.Password(forged)), caller("x"), caller("")},
			Foreign:       foreign,
		}
	})
	authtest.Test(t, func(t *testing.T) authtest.Fixture { // what is not remembered needs STS
		sts := awstest.New(t, identities())
		fresh := caller(aws.Password(presign(t, sts, ciKey, nil)))
		a := callers(t, sts, allow(t, metadata.Account{Account: account}))
		return authtest.Fixture{Authenticator: a, Good: fresh, Who: "aws:" + account + ":role/ci-build", Wrong: []auth.Credentials{caller("x")}, Break: sts.Close}
	})
}

// TestCallerRights: which row of the table counts for whom.
func TestCallerRights(t *testing.T) {
	sts := awstest.New(t, identities())
	db := allow(t,
		metadata.Account{Account: account, Repositories: "base/*"},
		metadata.Account{Account: account, Role: "*", Repositories: "all/*"},
		metadata.Account{Account: account, Role: "ci-*****************", Repositories: "long/*"},
		metadata.Account{Account: account, Role: "ci-build", Repositories: "core/*", Actions: []string{"pull", "push"}},
		metadata.Account{Account: "210987654321", Role: "ci-build", Repositories: "core/*", Actions: []string{"push"}},
	)
	a := callers(t, sts, db)
	for key, want := range map[string]struct {
		name, repositories string
		actions            auth.Actions
	}{
		ciKey:                  {"aws:" + account + ":role/ci-build", "core/*", auth.Pull | auth.Push},
		"ASIAINSTANCEROLE0000": {"aws:" + account + ":role/ops", "all/*", auth.Pull},
		"AKIAUSERUSERUSERUSER": {"aws:" + account + ":user/ann", "base/*", auth.Pull},
		"AKIAROOTROOTROOTROOT": {"aws:" + account + ":root", "base/*", auth.Pull},
		"ASIAFEDERATEDUSER000": {"aws:" + account + ":federated-user/guest", "base/*", auth.Pull},
	} {
		p, err := a.Authenticate(t.Context(), caller(aws.Password(presign(t, sts, key, nil))))
		if err != nil || p.Kind != auth.KindMachine || p.Name != want.name || p.Limit.Repositories != want.repositories || p.Limit.Actions != want.actions {
			t.Errorf("%s: %+v, %v", key, p, err)
			continue
		}
		if p.Claims["aws_arn"] != identities()[key].ARN || p.Claims["aws_account"] != account || p.Expires.After(time.Now().Add(aws.MaxExpires)) || p.Expires.IsZero() {
			t.Errorf("%s: %+v", key, p)
		}
	}

	// A user is no role, whatever the user's name; an account without a row of its own lets no user in.
	if _, err := a.Authenticate(t.Context(), caller(aws.Password(presign(t, sts, "AKIAOTHEROTHEROTHER0", nil)))); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("another account: %v", err)
	}

	// A right that is taken away ends at the next sign-in, and costs no call of STS.
	password := aws.Password(presign(t, sts, ciKey, nil))
	if _, err := a.Authenticate(t.Context(), caller(password)); err != nil {
		t.Fatal(err)
	}
	calls := sts.Calls.Load()
	for _, r := range []string{"ci-build", "ci-*****************", "*", ""} {
		if err := db.Update(t.Context(), func(tx *metadata.Tx) error { return tx.DeleteAccount(t.Context(), account, r) }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Authenticate(t.Context(), caller(password)); !errors.Is(err, oci.ErrDenied) || sts.Calls.Load() != calls {
		t.Errorf("after the account was removed: %v, %d calls more", err, sts.Calls.Load()-calls)
	}
}

// TestCallersRefused: requests that must not be sent at all, and those that STS refuses.
func TestCallersRefused(t *testing.T) {
	sts := awstest.New(t, identities())
	a := callers(t, sts, allow(t, metadata.Account{Account: account}))
	edit := func(f func(u *url.URL, q url.Values)) string {
		u, err := url.Parse(presign(t, sts, ciKey, nil))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		f(u, q)
		u.RawQuery = q.Encode()
		return aws.Password(u.String())
	}
	set := func(name string, values ...string) string {
		return edit(func(_ *url.URL, q url.Values) { q[name] = values })
	}
	good := presign(t, sts, ciKey, nil)
	for name, password := range map[string]string{
		"no prefix":               base64.RawURLEncoding.EncodeToString([]byte(good)),
		"not base64url":           aws.PasswordPrefix + "***",
		"padding":                 aws.Password(good) + "=",
		"too long":                aws.Password(good + "&X-Amz-Security-Token=" + strings.Repeat("x", 10<<10)),
		"not a URL":               aws.Password("https://%zz/"),
		"http":                    edit(func(u *url.URL, _ url.Values) { u.Scheme = "http" }),
		"another host":            edit(func(u *url.URL, _ url.Values) { u.Host = "sts.evil.example.com" }),
		"a suffix":                edit(func(u *url.URL, _ url.Values) { u.Host = "sts.amazonaws.com.evil.example" }),
		"a port":                  edit(func(u *url.URL, _ url.Values) { u.Host = "sts.amazonaws.com:8443" }),
		"another service":         edit(func(u *url.URL, _ url.Values) { u.Host = "s3.eu-west-1.amazonaws.com" }),
		"another partition":       edit(func(u *url.URL, _ url.Values) { u.Host = "sts.us-gov-west-1.amazonaws.com" }),
		"China":                   edit(func(u *url.URL, _ url.Values) { u.Host = "sts.cn-north-1.amazonaws.com.cn" }),
		"the metadata service":    edit(func(u *url.URL, _ url.Values) { u.Host = "169.254.169.254" }),
		"a user in the URL":       edit(func(u *url.URL, _ url.Values) { u.User = url.User("x") }),
		"a path":                  edit(func(u *url.URL, _ url.Values) { u.Path = "/x" }),
		"a fragment":              edit(func(u *url.URL, _ url.Values) { u.Fragment = "x" }),
		"another action":          set("Action", "GetSessionToken"),
		"two actions":             set("Action", "GetCallerIdentity", "AssumeRole"),
		"an action in lower case": set("action", "AssumeRole"),
		"another version":         set("Version", "2012-01-01"),
		"one parameter more":      set("RoleArn", role),
		"a redirect parameter":    set("X-Amz-Target", "x"),
		"an hour":                 set("X-Amz-Expires", "3600"),
		"901 seconds":             set("X-Amz-Expires", "901"),
		"no expiry":               edit(func(_ *url.URL, q url.Values) { q.Del("X-Amz-Expires") }),
		"no signature":            edit(func(_ *url.URL, q url.Values) { q.Del("X-Amz-Signature") }),
		"a header more":           set("X-Amz-SignedHeaders", "host;x-berth-server-id;x-other"),
		"for any server":          aws.Password(presign(t, sts, ciKey, func(r *http.Request) { r.Header.Del(aws.ServerHeader) })),
		"of another service":      set("X-Amz-Credential", ciKey+"/20260101/eu-west-1/s3/aws4_request"),
		"expired":                 aws.Password(presignAt(t, sts, ciKey, time.Now().Add(-time.Hour), nil)),
		"from the future":         aws.Password(presignAt(t, sts, ciKey, time.Now().Add(time.Hour), nil)),
	} {
		p, err := a.Authenticate(t.Context(), caller(password))
		if !errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() {
			t.Errorf("%s: %v, %v", name, p, err)
		}
		authtest.NoSecret(t, err, caller(password))
	}
	if n := sts.Calls.Load(); n != 0 {
		t.Errorf("%d of them were sent", n)
	}

	// What only STS can tell: made for another server, altered, unknown key.
	for name, password := range map[string]string{
		"for another server": aws.Password(presign(t, sts, ciKey, func(r *http.Request) { r.Header.Set(aws.ServerHeader, "other.example.com") })),
		"another key":        set("X-Amz-Credential", "AKIAUSERUSERUSERUSER/20260101/eu-west-1/sts/aws4_request"),
		"another session":    set("X-Amz-Security-Token", "other"),
	} {
		p, err := a.Authenticate(t.Context(), caller(password))
		if !errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	if n := sts.Calls.Load(); n != 3 {
		t.Errorf("STS was asked %d times", n)
	}
}

// TestOneAddressDoesNotUseUpSTS: invented signatures cannot be told from good ones
// without asking, and one address has only so many questions under way. Another one is
// answered meanwhile.
func TestOneAddressDoesNotUseUpSTS(t *testing.T) {
	sts := awstest.New(t, identities())
	a := callers(t, sts, allow(t, metadata.Account{Account: account}))
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	hang := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		w.WriteHeader(http.StatusForbidden)
	})
	sts.Answer.Store(&hang)
	invented := func(address string, i int) auth.Credentials {
		u, err := url.Parse(presign(t, sts, ciKey, nil))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("X-Amz-Signature", fmt.Sprintf("%064d", i))
		u.RawQuery = q.Encode()
		c := caller(aws.Password(u.String()))
		c.RemoteAddr = address
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer close(answer)
	for i := range 8 {
		c := invented("192.0.2.1:1", i)
		clients.Go(func() { _, _ = a.Authenticate(t.Context(), c) })
	}
	for range 8 {
		<-asked
	}
	more := make(chan error)
	ninth, other := invented("192.0.2.1:2", 8), invented("192.0.2.2:1", 9)
	clients.Go(func() { _, err := a.Authenticate(ctx, ninth); more <- err })
	clients.Go(func() { _, _ = a.Authenticate(t.Context(), other) })
	<-asked // by the other address
	cancel()
	if err := <-more; !errors.Is(err, oci.ErrUnavailable) || errors.Is(err, auth.ErrWrong) {
		t.Errorf("the ninth: %v", err)
	}
	if n := sts.Calls.Load(); n != 9 {
		t.Errorf("STS was asked %d times, want 9", n)
	}
}

// TestSTSAnswers: an answer that is not exactly what STS says is none (compare
// CVE-2020-16250), and trouble is not "wrong".
func TestSTSAnswers(t *testing.T) {
	sts := awstest.New(t, identities())
	a := callers(t, sts, allow(t, metadata.Account{Account: account}))
	body := func(status int, contentType, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(text))
		}
	}
	ok := awstest.Response(account, role)
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		wrong  bool
	}{
		"403":                {body(403, "text/xml", "<ErrorResponse/>"), true},
		"400":                {body(400, "text/xml", "<ErrorResponse/>"), true},
		"an IAM service":     {body(200, "text/xml", awstest.Response(account, "arn:aws:iam::"+account+":policy/x")), true},
		"500":                {body(500, "text/xml", ok), false},
		"429":                {body(429, "text/xml", ok), false},
		"HTML":               {body(200, "text/html", "<html>"+ok+"</html>"), false},
		"HTML that says XML": {body(200, "text/xml", "<html>"+ok+"</html>"), false},
		"JSON":               {body(200, "application/json", `{"Account":"`+account+`"}`), false},
		"another document":   {body(200, "text/xml", strings.ReplaceAll(ok, "GetCallerIdentityResponse", "AssumeRoleResponse")), false},
		"another namespace":  {body(200, "text/xml", strings.Replace(ok, "sts.amazonaws.com", "example.com", 1)), false},
		"two results":        {body(200, "text/xml", strings.Replace(ok, "<ResponseMetadata>", "<GetCallerIdentityResult><Account>1</Account></GetCallerIdentityResult><ResponseMetadata>", 1)), false},
		"two accounts":       {body(200, "text/xml", strings.Replace(ok, "<Account>", "<Account>210987654321</Account><Account>", 1)), false},
		"two documents":      {body(200, "text/xml", ok+ok), false},
		"cut off":            {body(200, "text/xml", ok[:200]), false},
		"other account":      {body(200, "text/xml", awstest.Response("210987654321", role)), false},
		"no account":         {body(200, "text/xml", awstest.Response("", role)), false},
		"64 KiB":             {body(200, "text/xml", ok+strings.Repeat(" ", 64<<10)), false},
		"redirect":           {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, false},
		"hangs up":           {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false},
		"hangs":              {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, false},
	} {
		sts.Answer.Store(&tt.answer)
		password := aws.Password(presign(t, sts, ciKey, nil))
		p, err := a.Authenticate(t.Context(), caller(password))
		if !p.IsAnonymous() || errors.Is(err, auth.ErrWrong) != tt.wrong || errors.Is(err, oci.ErrUnavailable) == tt.wrong {
			t.Errorf("%s: %v, %v", name, p, err)
		}
		authtest.NoSecret(t, err, caller(password))
	}
	// A certificate that nobody vouches for: an attacker in between learns nothing more than a refusal.
	b, err := aws.NewCallers(aws.CallerOptions{DB: allow(t), ServerID: serverID, Hosts: []string{sts.Host()}})
	if err != nil {
		t.Fatal(err)
	}
	before := sts.Calls.Load()
	if _, err := b.Authenticate(t.Context(), caller(aws.Password(presign(t, sts, ciKey, nil)))); !errors.Is(err, oci.ErrUnavailable) || sts.Calls.Load() != before {
		t.Errorf("an unknown certificate: %v", err)
	}
	for _, id := range []string{"", "a b", "x\ny", strings.Repeat("x", 300)} {
		if _, err := aws.NewCallers(aws.CallerOptions{DB: allow(t), ServerID: id}); err == nil {
			t.Errorf("the server id %q was taken", id)
		}
	}
}
