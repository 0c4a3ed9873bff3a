package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"berth/auth/aws"
	"berth/cmd/berth/cli"
)

// AWSConfig are the settings of AWS identities. Without any, none is taken.
type AWSConfig struct {
	Certificates       string
	HelperURL          string
	HelperRepositories string
	DocumentMaxAge     time.Duration
	IAM                bool
	ServerID           string
	STSHosts           []string
	CAFile             string
}

// awsSettings are those of AWS identities.
func awsSettings() []Setting {
	return []Setting{
		stringSetting("aws_certificates", "", "EC2 instances sign in with their identity document: PEM file of AWS's certificates that sign it, or a directory with a file per region, such as eu-west-1.pem (DSA and RSA-2048)", func(c *Config) *string { return &c.AWS.Certificates }, nil),
		stringSetting("aws_iidinfo_url", "", "service that verifies identity documents in place of aws_certificates, as Pier One had it (https, or http on localhost)", func(c *Config) *string { return &c.AWS.HelperURL }, aws.ValidHelperURL),
		stringSetting("aws_iidinfo_repositories", "*", "what instances may pull for which that service vouches; * and ? are wildcards", func(c *Config) *string { return &c.AWS.HelperRepositories }, nil),
		durationSetting("aws_document_max_age", "0s", "identity documents of instances that were started longer ago are refused; 0s takes all", func(c *Config) *time.Duration { return &c.AWS.DocumentMaxAge }, 0, 10*365*24*time.Hour),
		boolSetting("aws_iam", "false", "IAM roles and users sign in with what `berth aws-token` prints", func(c *Config) *bool { return &c.AWS.IAM }),
		shown(stringSetting("aws_server_id", "", "name of this registry in what they sign", func(c *Config) *string { return &c.AWS.ServerID }, aws.ValidServerID), "the host of `url`"),
		listSetting("aws_sts_hosts", "", "endpoints of STS that are asked beside sts.amazonaws.com and sts.REGION.amazonaws.com: those of GovCloud, China, or a VPC", func(c *Config) *[]string { return &c.AWS.STSHosts }),
		shown(stringSetting("aws_ca_file", "", "PEM file of the authorities that the certificates of aws_iidinfo_url and of STS may come from", func(c *Config) *string { return &c.AWS.CAFile }, nil), "those of the system"),
	}
}

// ServerName is what clients sign for.
func (a *AWSConfig) ServerName(c *Config) string {
	if a.ServerID != "" {
		return a.ServerID
	}
	if u, err := url.Parse(c.URL); err == nil {
		return u.Hostname()
	}
	return ""
}

// check finds settings that do not fit together. It gives all problems at once.
func (a *AWSConfig) check(c *Config) []error {
	var problems []error
	if a.Certificates != "" && a.HelperURL != "" {
		problems = append(problems, errors.New("aws_certificates and aws_iidinfo_url are both set: set the one that verifies identity documents"))
	}
	if a.IAM && a.ServerName(c) == "" {
		problems = append(problems, errors.New("aws_iam needs aws_server_id or url: without a name for this registry, what was signed for another service would be taken here"))
	}
	if _, err := a.ReadCertificates(); err != nil {
		problems = append(problems, err)
	}
	if _, err := a.Roots(); err != nil {
		problems = append(problems, err)
	}
	return problems
}

// Roots are the authorities of the certificates of AWS; nil stands for the system's.
func (a *AWSConfig) Roots() (*x509.CertPool, error) {
	if a.CAFile == "" {
		return nil, nil
	}
	text, err := cli.ReadSmallFile(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("aws_ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("aws_ca_file: %s holds no certificate in PEM form", a.CAFile)
	}
	return roots, nil
}

// ReadCertificates reads the certificates that sign identity documents.
func (a *AWSConfig) ReadCertificates() (*aws.Certificates, error) {
	if a.Certificates == "" {
		return nil, nil
	}
	c, err := aws.LoadCertificates(a.Certificates)
	if err != nil {
		return nil, fmt.Errorf("aws_certificates: %w", err)
	}
	return c, nil
}
