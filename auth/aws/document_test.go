package aws_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/auth"
	"berth/auth/authtest"
	"berth/auth/aws"
	"berth/auth/aws/awstest"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const account = "123456789012"

func good() string { return awstest.Document(account, "eu-west-1", time.Now().Add(-24*time.Hour)) }

// allow opens a database in which some accounts may sign in.
func allow(t testing.TB, accounts ...metadata.Account) *metadata.DB {
	t.Helper()
	db := metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)})
	err := db.Update(context.Background(), func(tx *metadata.Tx) error {
		for _, a := range accounts {
			if a.Repositories == "" {
				a.Repositories = "*"
			}
			if a.Actions == nil {
				a.Actions = []string{"pull"}
			}
			a.CreatedBy = "boss"
			if _, err := tx.PutAccount(context.Background(), a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// certificateDir is a directory of certificates: file name to the key's name.
func certificateDir(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for file, names := range files {
		var all []byte
		for name := range strings.FieldsSeq(names) {
			raw, err := os.ReadFile(filepath.Join(awstest.Keys(t), name+".pem"))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, raw...)
		}
		if err := os.WriteFile(filepath.Join(dir, file), all, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t testing.TB, path string) *aws.Certificates {
	t.Helper()
	c, err := aws.LoadCertificates(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func documents(t testing.TB, o aws.DocumentOptions) *aws.Documents {
	t.Helper()
	a, err := aws.NewDocuments(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func show(password string) auth.Credentials {
	return auth.Credentials{Username: aws.DocumentUser, Password: password, RemoteAddr: "192.0.2.1:1"}
}

// foreign are credentials for other authenticators.
var foreign = []auth.Credentials{
	{Username: "alice", Password: "x"}, {Username: "instance-identity-documents", Password: "x"}, {Username: "Instance-Identity-Document", Password: "x"},
	{Username: "AWS-IAM", Password: "x"}, {Bearer: "x"},
}

// TestDocuments is the contract of authenticators, for a signature that is
// verified here.
func TestDocuments(t *testing.T) {
	certificates := load(t, certificateDir(t, map[string]string{"eu-west-1.pem": "dsa rsa"}))
	authtest.Test(t, func(t *testing.T) authtest.Fixture {
		db := allow(t, metadata.Account{Account: account})
		return authtest.Fixture{
			Authenticator: documents(t, aws.DocumentOptions{DB: db, Certificates: certificates}),
			Good:          show(awstest.Sign(t, "dsa", good())),
			Who:           "aws:" + account,
			Wrong:         []auth.Credentials{show(awstest.Sign(t, "stranger", good())), show("x"), show("")},
			Foreign:       foreign,
			Break:         func() { db.Close() },
		}
	})
}

// TestDocumentForms: what clients make of the text, and what AWS signs with.
func TestDocumentForms(t *testing.T) {
	db := allow(t, metadata.Account{Account: account, Repositories: "base/*"})
	a := documents(t, aws.DocumentOptions{DB: db, Certificates: load(t, certificateDir(t, map[string]string{"any.pem": "stranger", "eu-west-1.pem": "dsa rsa"}))})
	dsa, rsa := awstest.Sign(t, "dsa", good(), "-md", "sha1"), awstest.Sign(t, "rsa", good(), "-md", "sha256")
	for name, password := range map[string]string{
		"as it is":              dsa,
		"with a line's end":     dsa + "\n",
		"with Windows lines":    strings.ReplaceAll(dsa, "\n", "\r\n"),
		"with spaces":           strings.ReplaceAll(dsa, "\n", " "),
		"in one line":           strings.ReplaceAll(dsa, "\n", ""),
		"with armour":           "-----BEGIN PKCS7-----\n" + dsa + "\n-----END PKCS7-----\n",
		"DSA with SHA-256":      awstest.Sign(t, "dsa", good(), "-md", "sha256"),
		"without attributes":    awstest.Sign(t, "dsa", good(), "-md", "sha1", "-noattr"),
		"RSA":                   rsa,
		"RSA, no attributes":    awstest.Sign(t, "rsa", good(), "-noattr"),
		"for every region":      awstest.Sign(t, "stranger", awstest.Document(account, "ap-southeast-2", time.Now().Add(-time.Hour))),
		"of a very old machine": awstest.Sign(t, "dsa", awstest.Document(account, "eu-west-1", time.Date(2016, 1, 1, 0, 0, 0, 0, time.UTC))),
	} {
		p, err := a.Authenticate(t.Context(), show(password))
		if err != nil || p.Kind != auth.KindMachine || p.Name != "aws:"+account {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		if p.Limit.Repositories != "base/*" || p.Limit.Actions != auth.Pull || p.Claims["aws_account"] != account || p.Claims["aws_instance"] != awstest.Instance || p.Claims["aws_region"] == "" || p.Expires.IsZero() {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// TestDocumentsRefused: hostile documents, each with what its refusal says.
func TestDocumentsRefused(t *testing.T) {
	db := allow(t, metadata.Account{Account: account}, metadata.Account{Account: "222222222222", Role: "ci"})
	certificates := load(t, certificateDir(t, map[string]string{"eu-west-1.pem": "dsa rsa", "us-east-1.pem": "stranger"}))
	a := documents(t, aws.DocumentOptions{DB: db, Certificates: certificates, MaxAge: 7 * 24 * time.Hour})

	der := func(password string) []byte {
		raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(password, "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	// The document is signed as it stands in the message, byte for byte.
	altered := func(password, from, to string) string {
		raw := der(password)
		if !bytes.Contains(raw, []byte(from)) || len(from) != len(to) {
			t.Fatalf("%q is not in the message", from)
		}
		return base64.StdEncoding.EncodeToString(bytes.Replace(raw, []byte(from), []byte(to), 1))
	}
	dsa := awstest.Sign(t, "dsa", good())
	flipped := der(dsa)
	flipped[len(flipped)-1] ^= 1

	for name, tt := range map[string]struct{ password, says string }{
		"another account":               {altered(dsa, account, "210987654321"), "signature"},
		"another account, RSA":          {altered(awstest.Sign(t, "rsa", good()), account, "210987654321"), "signature"},
		"another account, unattributed": {altered(awstest.Sign(t, "dsa", good(), "-noattr"), account, "210987654321"), "signature"},
		"a flipped bit":                 {base64.StdEncoding.EncodeToString(flipped), "signature"},
		"a certificate of its own":      {awstest.Sign(t, "stranger", good(), "-certfile", "stranger.pem"), "not signed by a certificate"},
		"another region's certificate":  {awstest.Sign(t, "dsa", awstest.Document(account, "us-east-1", time.Now())), "not signed by a certificate"},
		"a region without certificates": {awstest.Sign(t, "dsa", awstest.Document(account, "sa-east-1", time.Now())), "not signed by a certificate"},
		"RSA with SHA-1":                {awstest.Sign(t, "rsa", good(), "-md", "sha1"), "signature"},
		"DSA with SHA-224":              {awstest.Sign(t, "dsa", good(), "-md", "sha224"), "signature"},
		"too old":                       {awstest.Sign(t, "dsa", awstest.Document(account, "eu-west-1", time.Now().Add(-8*24*time.Hour))), "older than"},
		"from the future":               {awstest.Sign(t, "dsa", awstest.Document(account, "eu-west-1", time.Now().Add(time.Hour))), "future"},
		"two signatures":                {awstest.Sign(t, "dsa", good(), "-signer", "rsa.pem", "-inkey", "rsa.key"), "2 signatures"},
		"no document":                   {awstest.Sign(t, "dsa", "hello"), "not an instance identity document"},
		"no account":                    {awstest.Sign(t, "dsa", strings.Replace(good(), account, "12345678901", 1)), "not an instance identity document"},
		"a region that is a path":       {awstest.Sign(t, "dsa", awstest.Document(account, "../eu-west-1", time.Now())), "not an instance identity document"},
		"cut off":                       {dsa[:len(dsa)/2], ""},
		"not base64":                    {"***", "base64"},
		"not PKCS7":                     {"aGVsbG8=", "PKCS7"},
		"with a colon":                  {"a:" + dsa, ""},
		"64 KiB":                        {strings.Repeat("MIAG", 16<<10), ""},
		"a deep nest":                   {base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x30, 0x80}, 4000)), "PKCS7"},
	} {
		p, err := a.Authenticate(t.Context(), show(tt.password))
		if !errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() || !strings.Contains(auth.WrongReason(err), tt.says) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
		authtest.NoSecret(t, err, show(tt.password))
	}

	// Detached: the signature alone, without the document.
	cmd := exec.Command(testenv.Tool(t, "openssl"), "smime", "-sign", "-binary", "-nocerts", "-outform", "DER", "-signer", "dsa.pem", "-inkey", "dsa.key")
	cmd.Dir, cmd.Stdin = awstest.Keys(t), strings.NewReader(good())
	detached, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), show(base64.StdEncoding.EncodeToString(detached))); !errors.Is(err, auth.ErrWrong) || !strings.Contains(err.Error(), "detached") {
		t.Errorf("detached: %v", err)
	}

	// Who is known and has no rights is no liar: 403 and not 401. What a role may is
	// nothing to an instance.
	for _, other := range []string{"111111111111", "222222222222"} {
		_, err := a.Authenticate(t.Context(), show(awstest.Sign(t, "dsa", awstest.Document(other, "eu-west-1", time.Now()))))
		if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "berth account add "+other) {
			t.Errorf("account %s: %v", other, err)
		}
	}
}

// TestDocumentsHoldWhileTheirCertificateDoes: AWS's certificate has a beginning and an end.
func TestDocumentsHoldWhileTheirCertificateDoes(t *testing.T) {
	shown := show(awstest.Sign(t, "dsa", good()))
	for away, holds := range map[time.Duration]bool{0: true, 60 * 24 * time.Hour: false, -60 * 24 * time.Hour: false} {
		a := documents(t, aws.DocumentOptions{
			DB: allow(t, metadata.Account{Account: account}), Certificates: load(t, awstest.Certificate(t, "dsa")),
			Clock: func() time.Time { return time.Now().Add(away) },
		})
		_, err := a.Authenticate(t.Context(), shown)
		if holds != (err == nil) || !holds && (!errors.Is(err, auth.ErrWrong) || !strings.Contains(auth.WrongReason(err), "certificate")) {
			t.Errorf("%s away: %v", away, err)
		}
	}
}

// TestCertificates: what operators may put there.
func TestCertificates(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		says  string
	}{
		"none":         {map[string]string{}, "no .pem file"},
		"a bad region": {map[string]string{"europe.pem": "dsa"}, "neither named after an AWS region"},
		"another file": {map[string]string{"README": "dsa"}, "not a .pem file"},
		"a short RSA":  {map[string]string{"eu-west-1.pem": "short"}, "1024 bits"},
		"an EC one":    {map[string]string{"eu-west-1.pem": "ec"}, "neither DSA nor RSA"},
		"an empty one": {map[string]string{"eu-west-1.pem": ""}, "no certificate"},
	} {
		if _, err := aws.LoadCertificates(certificateDir(t, tt.files)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, path := range []string{filepath.Join(awstest.Keys(t), "dsa.key"), filepath.Join(t.TempDir(), "nothing"), os.DevNull} {
		if _, err := aws.LoadCertificates(path); err == nil {
			t.Errorf("%s was loaded", path)
		}
	}
	load(t, filepath.Join(awstest.Keys(t), "dsa.pem"))
}

// TestHelper is pierone.md 3.2 and its check 5, with what fails closed here.
func TestHelper(t *testing.T) {
	const text = "MIAGCSqGSIb3\nDQEHAqCAMIAC\nAQEx"
	var (
		calls  atomic.Int32
		answer atomic.Pointer[http.HandlerFunc]
	)
	set := func(f http.HandlerFunc) { answer.Store(&f) }
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	helper := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		(*answer.Load())(w, r)
	}))
	defer helper.Close()
	open := func() *aws.Documents {
		return documents(t, aws.DocumentOptions{DB: allow(t), HelperURL: helper.URL + "/iid", HelperRepositories: "base/*"})
	}

	set(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Method != "POST" || r.URL.Path != "/iid" || len(body) != 1 || body["iid_signature"] != text || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s got %q, %v", r.Method, r.URL, body, err)
		}
	})
	a := open()
	for range 2 {
		p, err := a.Authenticate(t.Context(), show(text))
		if err != nil || p.Name != "aws:instance" || p.Limit.Repositories != "base/*" || p.Limit.Actions != auth.Pull {
			t.Errorf("%+v, %v", p, err)
		}
	}
	if calls.Load() != 1 {
		t.Errorf("the helper was asked %d times", calls.Load())
	}

	// A text that can be read says who it is.
	set(status(200))
	if p, err := a.Authenticate(t.Context(), show(awstest.Sign(t, "stranger", good()))); err != nil || p.Name != "aws:"+account || p.Claims["aws_instance"] != awstest.Instance {
		t.Errorf("%+v, %v", p, err)
	}

	for name, tt := range map[string]struct {
		f     http.HandlerFunc
		wrong bool
	}{
		"204": {status(204), true},
		"400": {status(400), true},
		"403": {status(403), true},
		"429": {status(429), false},
		"500": {status(500), false},
		"503": {status(503), false},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, false},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			// Without reading the body, net/http does not notice that the caller left.
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}, false},
		"cut off": {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, false},
		"100 MiB": {func(w http.ResponseWriter, r *http.Request) {
			block := make([]byte, 1<<20)
			for range 100 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, false},
	} {
		set(tt.f)
		a, before := open(), calls.Load()
		for range 2 { // a refusal is not remembered
			p, err := a.Authenticate(t.Context(), show(text))
			if !p.IsAnonymous() || errors.Is(err, auth.ErrWrong) != tt.wrong || errors.Is(err, oci.ErrUnavailable) == tt.wrong {
				t.Errorf("%s: %v, %v", name, p, err)
			}
			authtest.NoSecret(t, err, show(text))
		}
		if got := calls.Load() - before; got != 2 {
			t.Errorf("%s: asked %d times", name, got)
		}
	}
	calls.Store(0)
	if _, err := a.Authenticate(t.Context(), show("a:b")); !errors.Is(err, auth.ErrWrong) || calls.Load() != 0 {
		t.Errorf("two colons: %v, %d calls", err, calls.Load())
	}

	for _, url := range []string{"http://iid.example.com/", "ftp://127.0.0.1/", "x"} {
		if _, err := aws.NewDocuments(aws.DocumentOptions{DB: allow(t), HelperURL: url}); err == nil {
			t.Errorf("the helper %q was taken", url)
		}
	}
	if _, err := aws.NewDocuments(aws.DocumentOptions{DB: allow(t)}); err == nil {
		t.Error("neither certificates nor a helper, and instances are recognised")
	}
}

// FuzzDocument: nobody gets in, and nothing panics, whatever is sent.
func FuzzDocument(f *testing.F) {
	a := documents(f, aws.DocumentOptions{DB: allow(f, metadata.Account{Account: account}), Certificates: load(f, certificateDir(f, map[string]string{"any.pem": "rsa"}))})
	for _, more := range [][]string{{}, {"-noattr"}, {"-md", "sha1"}} {
		raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(awstest.Sign(f, "stranger", good(), more...), "\n", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{0x30, 0x80, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x80})
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := a.Authenticate(t.Context(), show(base64.StdEncoding.EncodeToString(raw)))
		if !errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() {
			t.Errorf("%v, %v", p, err)
		}
	})
}
