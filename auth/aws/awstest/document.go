package awstest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/testenv"
)

// Instance is the instance of a Document.
const Instance = "i-0123456789abcdef0"

// Document is an instance identity document as AWS writes it.
func Document(account, region string, started time.Time) string {
	return fmt.Sprintf(`{
  "accountId" : "%s",
  "architecture" : "x86_64",
  "availabilityZone" : "%sb",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : [ "1abc2defghijklm3nopqrs4tu" ],
  "imageId" : "ami-5fb8c835",
  "instanceId" : "%s",
  "instanceType" : "t2.micro",
  "kernelId" : null,
  "pendingTime" : "%s",
  "privateIp" : "10.158.112.84",
  "ramdiskId" : null,
  "region" : "%s",
  "version" : "2017-09-30"
}`, account, region, Instance, started.UTC().Format(time.RFC3339), region)
}

// keys are the signers of a test process, made once by openssl.
var keys struct {
	once sync.Once
	dir  string
	err  error
}

// Keys is a directory with signers, NAME.key and the certificate NAME.pem: dsa and rsa
// as AWS has them, stranger (DSA) of somebody else, and short (RSA) and ec, which AWS
// has for nothing like it. It stays until the process ends.
func Keys(t testing.TB) string {
	openssl := testenv.Tool(t, "openssl")
	keys.once.Do(func() {
		keys.dir, keys.err = testenv.Dir("aws-")
		run := func(args ...string) {
			if keys.err != nil {
				return
			}
			cmd := exec.Command(openssl, args...)
			cmd.Dir = keys.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				keys.err = fmt.Errorf("openssl %s: %w: %s", args[0], err, out)
			}
		}
		run("dsaparam", "-out", "params", "1024")
		for _, name := range []string{"dsa", "stranger"} {
			run("gendsa", "-out", name+".key", "params")
		}
		for name, bits := range map[string]string{"rsa": "2048", "short": "1024"} {
			run("genrsa", "-out", name+".key", bits)
		}
		run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ec.key")
		for _, name := range []string{"dsa", "stranger", "rsa", "short", "ec"} {
			run("req", "-x509", "-new", "-key", name+".key", "-out", name+".pem", "-days", "30", "-subj", "/O=Amazon Web Services LLC/CN="+name)
		}
	})
	if keys.err != nil {
		t.Fatal(keys.err)
	}
	return keys.dir
}

// Certificate is the path of a signer's certificate.
func Certificate(t testing.TB, name string) string { return filepath.Join(Keys(t), name+".pem") }

// Sign makes the text that the instance metadata service gives for a document, with
// more arguments for openssl smime -sign.
func Sign(t testing.TB, name, document string, more ...string) string {
	t.Helper()
	args := append([]string{"smime", "-sign", "-binary", "-nodetach", "-nocerts", "-outform", "DER", "-signer", name + ".pem", "-inkey", name + ".key"}, more...)
	cmd := exec.Command(testenv.Tool(t, "openssl"), args...)
	cmd.Dir, cmd.Stdin = Keys(t), strings.NewReader(document)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	der, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v: %s", args, err, stderr.String())
	}
	text := base64.StdEncoding.EncodeToString(der)
	var lines []string
	for len(text) > 64 {
		lines, text = append(lines, text[:64]), text[64:]
	}
	return strings.Join(append(lines, text), "\n")
}
