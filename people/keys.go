package people

import (
	"context"
	"time"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
)

// rotation is what the audit log tells of a new key.
type rotation struct {
	Service    string `json:"service,omitempty"`
	Algorithm  string `json:"algorithm,omitempty"`
	Delay      *int   `json:"delay,omitempty"`       // seconds
	PrivateKey bool   `json:"private_key,omitempty"` // somebody brought it; masked
}

// RotateKey gives a service ("" is the registry itself) its next key. It returns NOT_FOUND,
// INVALID, CONFLICT when the key comes from a file of the settings, and DENIED: who brings a
// key can sign all that the registry can.
func (p *People) RotateKey(ctx context.Context, by auth.Actor, service string, r token.Rotation) (token.KeyInfo, error) {
	if r.Material != nil {
		if err := by.MayGive(auth.Right{What: "a signing key", Limit: auth.Everything()}); err != nil {
			return token.KeyInfo{}, err
		}
	}
	asked := rotation{Service: service, Algorithm: r.Algorithm, PrivateKey: r.Material != nil}
	if r.Delay != nil {
		delay := int(*r.Delay / time.Second)
		asked.Delay = &delay
	}
	r.Also = p.recording(ctx, by, metadata.KeyRotated, nil, asked)
	return p.o.Keys.Rotate(ctx, service, r)
}

// RetireKey removes a key of a service ("" is the registry itself) at once. It returns
// NOT_FOUND, and CONFLICT when no other key of the service signs.
func (p *People) RetireKey(ctx context.Context, by auth.Actor, service, kid string) error {
	asked := struct {
		Service string `json:"service,omitempty"`
	}{service}
	return p.o.Keys.Retire(ctx, service, kid, p.recording(ctx, by, metadata.KeyRetired, Params{"kid": kid}, asked))
}

// recording records a deed in the transaction of somebody else.
func (p *People) recording(ctx context.Context, by auth.Actor, kind metadata.EventKind, params Params, fields any) func(*metadata.Tx) error {
	return func(tx *metadata.Tx) error {
		return (&Batch{tx, p.o}).record(ctx, by, string(kind), params, fields)
	}
}
