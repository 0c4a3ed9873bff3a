package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"

	"berth/auth/aws"
)

// NewAWSTokenCommand makes 'berth aws-token'.
func NewAWSTokenCommand(r *Remote) *cobra.Command {
	var serverID, region string
	c := &cobra.Command{
		Use:   "aws-token",
		Short: "Print a password for docker login, from this machine's AWS credentials",
		Long: `Print a password with which docker, podman and others sign in as the user aws-iam. It is a
request for sts:GetCallerIdentity, signed with the AWS credentials of this machine (environment,
profile, web identity, instance or task role) and made out to one registry; no secret key leaves
the machine. It holds for 15 minutes at most.`,
		Example: `  berth aws-token --server https://registry.example.com |
    docker login registry.example.com --username aws-iam --password-stdin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if serverID == "" {
				server, err := r.address()
				if err != nil {
					return err
				}
				serverID = server.Hostname()
			}
			password, err := awsPassword(cmd.Context(), serverID, region)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), password)
			return err
		},
	}
	c.Flags().StringVar(&serverID, "server-id", "", "what the registry is called in its setting aws_server_id (default: the host of --server)")
	c.Flags().StringVar(&region, "region", "", "the AWS region whose STS is asked (default: that of the AWS configuration, else us-east-1)")
	return c
}

// awsTimeout bounds the look for credentials, which may ask the instance
// metadata service or STS.
const awsTimeout = 30 * time.Second

// awsPassword signs a request for sts:GetCallerIdentity.
func awsPassword(ctx context.Context, serverID, region string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, awsTimeout)
	defer cancel()
	conf, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the AWS configuration: %w", err)
	}
	if region != "" {
		conf.Region = region
	}
	if conf.Region == "" {
		conf.Region = "us-east-1"
	}
	if conf.Credentials == nil {
		return "", errors.New("there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run on a machine with a role")
	}
	client := sts.NewPresignClient(sts.NewFromConfig(conf))
	signed, err := client.PresignGetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}, func(o *sts.PresignOptions) {
		o.Presigner = addressed{o.Presigner, serverID}
	})
	if err != nil {
		return "", fmt.Errorf("signing with the AWS credentials of this machine: %w", err)
	}
	return aws.Password(signed.URL), nil
}

// addressed makes a signature cover the registry that it is for.
type addressed struct {
	next     sts.HTTPPresignerV4
	serverID string
}

// PresignHTTP implements sts.HTTPPresignerV4.
func (a addressed) PresignHTTP(ctx context.Context, credentials awssdk.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, options ...func(*v4.SignerOptions)) (string, http.Header, error) {
	r.Header.Set(aws.ServerHeader, a.serverID)
	q := r.URL.Query()
	q.Set("X-Amz-Expires", strconv.Itoa(int(aws.MaxExpires/time.Second)))
	r.URL.RawQuery = q.Encode()
	return a.next.PresignHTTP(ctx, credentials, r, payloadHash, service, region, at, options...)
}
