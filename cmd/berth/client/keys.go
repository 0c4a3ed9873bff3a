package client

import (
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/cmd/berth/cli"
)

// NewKeyCommand makes 'berth key'.
func NewKeyCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Manage the keys that sign tokens",
		Long: `Manage the keys that sign tokens: Berth's own, and with --service those of another registry.
A new key is published (in /.well-known/jwks.json and /v2/certs/pem) at once and signs after a
delay, so that others know it by then. The one before it verifies until its last token is dead.`,
		Example: `  berth key list
  berth key rotate --service registry.example.com
  berth key rotate --service registry.example.com --delay 0s`,
	}
	c.AddCommand(newKeyListCommand(r), newKeyRotateCommand(r), newKeyImportCommand(r), newKeyRetireCommand(r))
	return c
}

func newKeyListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the keys, without what is private of them",
		Example: `  berth key list --output json`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			list, err := Fetched(s.ListKeysWithResponse(cmd.Context()))
			if err != nil {
				return err
			}
			return printList(r, cmd, items(list.Items), []string{"SERVICE", "KID", "ALGORITHM", "SOURCE", "STATE", "SIGNS FROM", "VERIFIES UNTIL", "CERTIFICATE UNTIL"}, func(k api.Key) []string {
				return []string{keyService(k), k.Kid, string(k.Algorithm), string(k.Source), string(k.State), cli.ShowTime(k.ActiveAt), cli.ShowTimeOr(k.ExpiresAt, "-"), cli.ShowTimeOr(k.CertificateExpiresAt, "-")}
			})
		}),
	}
}

// items is a list that came whole.
func items[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

func keyService(k api.Key) string {
	if k.Service == nil {
		return "(this registry)"
	}
	return *k.Service
}

// rotationFlags are what rotate and import have in common.
type rotationFlags struct {
	service string
	delay   *time.Duration
}

func addRotationFlags(c *cobra.Command) *rotationFlags {
	f := &rotationFlags{}
	c.Flags().StringVar(&f.service, "service", "", "whose key; without it, Berth's own")
	f.delay = cli.DurationFlag(c.Flags(), "delay", 0, "when it signs, such as 0s, 24h or 10d (default: the server's setting key_publish_delay)")
	return f
}

// rotate sends a rotation and says what became of it.
func (f *rotationFlags) rotate(r *Remote, cmd *cobra.Command, rotation api.KeyRotation) error {
	rotation.Service = cli.Pointer(f.service)
	if cmd.Flags().Changed("delay") {
		delay := int(*f.delay / time.Second)
		rotation.Delay = &delay
	}
	s, err := r.Connect(cmd)
	if err != nil {
		return err
	}
	k, err := created(s.RotateKeyWithResponse(cmd.Context(), rotation))
	if err != nil {
		return err
	}
	return PrintDone(r, cmd, k, "key %s (%s) of %s is published, and signs from %s", k.Kid, k.Algorithm, keyService(*k), cli.ShowTime(k.ActiveAt))
}

func newKeyRotateCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make the next key",
		Example: `  berth key rotate
  berth key rotate --service registry.example.com --algorithm RS256
  berth key rotate --service registry.example.com --delay 0s    # after a leak: signs at once`,
		Args: cobra.NoArgs,
	}
	f := addRotationFlags(c)
	algorithm := cli.ChoiceFlag(c, "algorithm", "", "of the new key; without it, the service's", "ES256", "ES384", "RS256", "EdDSA")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return f.rotate(r, cmd, api.KeyRotation{Algorithm: cli.Pointer(api.KeyAlgorithm(algorithm.Value))})
	}
	return c
}

func newKeyImportCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "import FILE [CERTIFICATES]",
		Short: "Bring the next key",
		Long: `Bring the next key from a PEM file (PKCS #1, SEC 1 or PKCS #8, not encrypted), which may also
have its certificates; they can be in a second file too. - reads standard input.`,
		Example: `  berth key import tls.key tls.crt --service registry.example.com
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 | berth key import -`,
		Args: cobra.RangeArgs(1, 2),
	}
	f := addRotationFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var text []byte
		for _, name := range args {
			var part []byte
			var err error
			if name == "-" {
				part, err = io.ReadAll(io.LimitReader(cli.Input(cmd), cli.MaxConfigFile))
			} else {
				part, err = cli.ReadSmallFile(name)
			}
			if err != nil {
				return err
			}
			text = append(append(text, part...), '\n')
		}
		return f.rotate(r, cmd, api.KeyRotation{PrivateKey: cli.Pointer(string(text))})
	}
	return c
}

func newKeyRetireCommand(r *Remote) *cobra.Command {
	var service string
	c := &cobra.Command{
		Use:     "retire KID",
		Short:   "Remove a key at once, with all that it signed",
		Long:    "Remove a key at once, with all that it signed. Write -- before a KID that begins with a dash.",
		Example: `  berth key retire --service registry.example.com --yes NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs`,
		Args:    cobra.ExactArgs(1),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This removes the key "+args[0]+": all tokens that it signed are refused."); err != nil {
				return err
			}
			if err := Done(s.RetireKeyWithResponse(cmd.Context(), args[0], &api.RetireKeyParams{Service: cli.Pointer(service)})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "key %s is retired", args[0])
		}),
	}
	c.Flags().StringVar(&service, "service", "", "whose key; without it, Berth's own")
	return c
}
