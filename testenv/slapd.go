package testenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// LDAP is a running OpenLDAP server of one test, with a certificate from an
// authority of its own for 127.0.0.1 and localhost. It refuses passwords without
// TLS, and takes an empty password for an anonymous success, as some directories do.
// The overlay memberOf is on, and five wrong passwords lock an account.
type LDAP struct {
	URL       string // ldap://127.0.0.1:port
	SecureURL string // ldaps://127.0.0.1:port
	CAFile    string
	Roots     *x509.CertPool

	BaseDN       string // dc=example,dc=org
	BindDN       string // may read everything
	BindPassword string

	t    testing.TB
	args []string
	proc *Process
}

const slapdConfig = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
moduleload ppolicy
pidfile DIR/pid
referral ldap://127.0.0.1:1/
allow bind_anon_cred bind_anon_dn
TLSCACertificateFile DIR/ca.pem
TLSCertificateFile DIR/server.pem
TLSCertificateKeyFile DIR/server.key
TLSVerifyClient never
security simple_bind=71
database mdb
directory DIR/db
maxsize 67108864
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw admin-secret
index uid,mail,member,entryUUID eq
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=berth,dc=example,dc=org" read by self read by dn.children="ou=people,dc=example,dc=org" read by * none
overlay memberof
memberof-group-oc groupOfNames
memberof-member-ad member
memberof-memberof-ad memberOf
overlay ppolicy
ppolicy_default "cn=policy,dc=example,dc=org"
`

const slapdBase = `
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: cn=policy,dc=example,dc=org
objectClass: organizationalRole
objectClass: pwdPolicy
cn: policy
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: 5

dn: cn=berth,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: berth
userPassword: berth-secret

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups
`

// Slapd starts an OpenLDAP server with the entries of an LDIF text added below
// dc=example,dc=org, which has ou=people and ou=groups. It stops when the test ends.
func Slapd(t testing.TB, ldif string) *LDAP {
	t.Helper()
	bin, err := lookTool("slapd")
	if _, sbin := os.Stat("/usr/sbin/slapd"); err != nil && sbin == nil {
		bin, err = "/usr/sbin/slapd", nil // not in everybody's PATH
	}
	require(t, err)
	dir := t.TempDir()
	s := &LDAP{BaseDN: "dc=example,dc=org", BindDN: "cn=berth,dc=example,dc=org", BindPassword: "berth-secret", CAFile: filepath.Join(dir, "ca.pem"), t: t}
	if s.Roots, err = writeCertificates(dir); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "slapd.conf")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(slapdConfig, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	plain, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	secure, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s.URL, s.SecureURL = "ldap://"+plain, "ldaps://"+secure
	s.args = []string{bin, "-f", config, "-h", s.URL + "/ " + s.SecureURL + "/", "-d", "0"}
	s.Start()
	t.Cleanup(s.Kill)
	s.Add(slapdBase)
	s.Add(ldif)
	return s
}

// Start runs the server, again after Kill, with the entries that it had.
func (s *LDAP) Start() {
	s.t.Helper()
	proc, err := Start(exec.Command(s.args[0], s.args[1:]...), syscall.SIGKILL)
	if err != nil {
		s.t.Fatalf("starting slapd: %v", err)
	}
	s.proc = proc
	deadline := time.Now().Add(2 * time.Minute)
	for _, url := range []string{s.URL, s.SecureURL} {
		for {
			conn, err := net.DialTimeout("tcp", url[strings.Index(url, "//")+2:], time.Second)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-proc.Done():
				s.t.Fatalf("slapd ended at start: %v; try %s", proc.Wait(), strings.Join(s.args, " "))
			default:
			}
			if time.Now().After(deadline) {
				s.t.Fatalf("slapd does not listen: %v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// Signal sends the server a signal, such as SIGSTOP.
func (s *LDAP) Signal(sig syscall.Signal) { s.proc.Signal(sig) }

// Kill is kill -9.
func (s *LDAP) Kill() { _ = s.proc.Stop(syscall.SIGKILL) }

// Add adds the entries of an LDIF text as the administrator.
func (s *LDAP) Add(ldif string) { s.t.Helper(); s.tool("ldapadd", ldif) }

// Modify applies an LDIF text of changes as the administrator.
func (s *LDAP) Modify(ldif string) { s.t.Helper(); s.tool("ldapmodify", ldif) }

func (s *LDAP) tool(name, ldif string) {
	s.t.Helper()
	if strings.TrimSpace(ldif) == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Tool(s.t, name), "-x", "-H", s.SecureURL, "-D", "cn=admin,"+s.BaseDN, "-w", "admin-secret")
	cmd.Env = append(os.Environ(), "LDAPTLS_CACERT="+s.CAFile)
	cmd.Stdin = strings.NewReader(ldif)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// writeCertificates makes ca.pem, server.pem and server.key in a directory.
func writeCertificates(dir string) (*x509.CertPool, error) {
	issue := func(serial int64, name string, change func(*x509.Certificate), parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
		change(c)
		if parent == nil {
			parent, signer = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
		if err != nil {
			return nil, nil, err
		}
		c, err = x509.ParseCertificate(der)
		return c, key, err
	}
	ca, caKey, err := issue(1, "authority of a test", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	}, nil, nil)
	if err != nil {
		return nil, err
	}
	leaf, key, err := issue(2, "localhost", func(c *x509.Certificate) {
		c.IPAddresses, c.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}, ca, caKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":     {Type: "CERTIFICATE", Bytes: ca.Raw},
		"server.pem": {Type: "CERTIFICATE", Bytes: leaf.Raw},
		"server.key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")); err != nil {
		return nil, fmt.Errorf("the server's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return roots, nil
}
