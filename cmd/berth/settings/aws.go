package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"berth/auth/aws"
)

// awsConfig are the settings of AWS identities. Without any, none is taken.
type awsConfig struct {
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
func awsSettings() []setting {
	return []setting{
		stringSetting("aws_certificates", "", "EC2 instances sign in with their identity document: PEM file of AWS's certificates that sign it, or a directory with a file per region, such as eu-west-1.pem (DSA and RSA-2048)", func(c *config) *string { return &c.AWS.Certificates }, nil),
		stringSetting("aws_iidinfo_url", "", "service that verifies identity documents in place of aws_certificates, as Pier One had it (https, or http on localhost)", func(c *config) *string { return &c.AWS.HelperURL }, aws.ValidHelperURL),
		stringSetting("aws_iidinfo_repositories", "*", "what instances may pull for which that service vouches; * and ? are wildcards", func(c *config) *string { return &c.AWS.HelperRepositories }, nil),
		durationSetting("aws_document_max_age", "0s", "identity documents of instances that were started longer ago are refused; 0s takes all", func(c *config) *time.Duration { return &c.AWS.DocumentMaxAge }, 0, 10*365*24*time.Hour),
		boolSetting("aws_iam", "false", "IAM roles and users sign in with what `berth aws-token` prints", func(c *config) *bool { return &c.AWS.IAM }),
		shown(stringSetting("aws_server_id", "", "name of this registry in what they sign", func(c *config) *string { return &c.AWS.ServerID }, aws.ValidServerID), "the host of `url`"),
		listSetting("aws_sts_hosts", "", "endpoints of STS that are asked beside sts.amazonaws.com and sts.REGION.amazonaws.com: those of GovCloud, China, or a VPC", func(c *config) *[]string { return &c.AWS.STSHosts }),
		shown(stringSetting("aws_ca_file", "", "PEM file of the authorities that the certificates of aws_iidinfo_url and of STS may come from", func(c *config) *string { return &c.AWS.CAFile }, nil), "those of the system"),
	}
}

// serverName is what clients sign for.
func (a *awsConfig) serverName(c *config) string {
	if a.ServerID != "" {
		return a.ServerID
	}
	if u, err := url.Parse(c.URL); err == nil {
		return u.Hostname()
	}
	return ""
}

// check finds settings that do not fit together. It gives all problems at once.
func (a *awsConfig) check(c *config) []error {
	var problems []error
	if a.Certificates != "" && a.HelperURL != "" {
		problems = append(problems, errors.New("aws_certificates and aws_iidinfo_url are both set: set the one that verifies identity documents"))
	}
	if a.IAM && a.serverName(c) == "" {
		problems = append(problems, errors.New("aws_iam needs aws_server_id or url: without a name for this registry, what was signed for another service would be taken here"))
	}
	if _, err := a.readCertificates(); err != nil {
		problems = append(problems, err)
	}
	if _, err := a.roots(); err != nil {
		problems = append(problems, err)
	}
	return problems
}

func (a *awsConfig) roots() (*x509.CertPool, error) {
	if a.CAFile == "" {
		return nil, nil
	}
	text, err := readSmallFile(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("aws_ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("aws_ca_file: %s holds no certificate in PEM form", a.CAFile)
	}
	return roots, nil
}

func (a *awsConfig) readCertificates() (*aws.Certificates, error) {
	if a.Certificates == "" {
		return nil, nil
	}
	c, err := aws.LoadCertificates(a.Certificates)
	if err != nil {
		return nil, fmt.Errorf("aws_certificates: %w", err)
	}
	return c, nil
}
