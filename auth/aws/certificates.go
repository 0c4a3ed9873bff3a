package aws

import (
	//lint:ignore SA1019 AWS signs instance identity documents with DSA
	"crypto/dsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Certificates are those with which AWS signs instance identity documents, by
// region. They are the operator's: see LoadCertificates.
type Certificates struct {
	regions map[string][]*x509.Certificate // "" is every region
}

// Bounds of what is loaded.
const (
	maxCertificateFile  = 1 << 20 // bytes
	maxCertificateFiles = 200
)

var regionRE = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$`)

// LoadCertificates reads certificates (PEM) from a file, which then count for
// every region, or from a directory: there NAME.pem counts for the region NAME
// alone, such as eu-west-1.pem, and any.pem for every region. AWS publishes them
// in the EC2 user guide under "AWS public certificates".
func LoadCertificates(path string) (*Certificates, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	c := &Certificates{regions: map[string][]*x509.Certificate{}}
	if !info.IsDir() {
		return c, c.load(path, "")
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		region, ok := strings.CutSuffix(e.Name(), ".pem")
		switch {
		case strings.HasPrefix(e.Name(), ".") || e.IsDir(): // Kubernetes mounts hidden ones
			continue
		case !ok:
			return nil, fmt.Errorf("%s is not a .pem file", filepath.Join(path, e.Name()))
		case region == "any":
			region = ""
		case !regionRE.MatchString(region):
			return nil, fmt.Errorf("%s is neither named after an AWS region, such as eu-west-1.pem, nor any.pem", filepath.Join(path, e.Name()))
		}
		if err := c.load(filepath.Join(path, e.Name()), region); err != nil {
			return nil, err
		}
		if len(c.regions) > maxCertificateFiles {
			return nil, fmt.Errorf("%s has more than %d files", path, maxCertificateFiles)
		}
	}
	if len(c.regions) == 0 {
		return nil, fmt.Errorf("%s has no .pem file: name them after AWS regions, such as eu-west-1.pem", path)
	}
	return c, nil
}

func (c *Certificates) load(path, region string) error {
	raw, err := readBounded(path)
	if err != nil {
		return err
	}
	for len(raw) > 0 {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("%s holds a %s, which is not a certificate", path, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("reading a certificate of %s: %w", path, err)
		}
		switch key := cert.PublicKey.(type) {
		case *rsa.PublicKey:
			if key.N.BitLen() < 2048 {
				return fmt.Errorf("%s holds an RSA certificate of %d bits: that is for AWS's base64-encoded signature, take the DSA and the RSA-2048 certificate", path, key.N.BitLen())
			}
		case *dsa.PublicKey:
			if key.P.BitLen() < 1024 || key.Q.BitLen() < 160 {
				return fmt.Errorf("%s holds a DSA certificate that is too short", path)
			}
		default:
			return fmt.Errorf("%s holds a certificate that is neither DSA nor RSA, which AWS does not use", path)
		}
		c.regions[region] = append(c.regions[region], cert)
	}
	if len(c.regions[region]) == 0 {
		return fmt.Errorf("%s holds no certificate (PEM)", path)
	}
	return nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is not a file")})
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxCertificateFile+1))
	if err == nil && len(raw) > maxCertificateFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxCertificateFile)
	}
	return raw, err
}

// of gives the certificates that count for a region.
func (c *Certificates) of(region string) []*x509.Certificate {
	own, all := c.regions[region], c.regions[""]
	return append(own[:len(own):len(own)], all...)
}
