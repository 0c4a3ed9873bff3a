package admin

import (
	"context"
	"time"

	"berth/api"
	"berth/auth/token"
	"berth/oci"
)

func keyOf(k token.KeyInfo) api.Key {
	shown := api.Key{
		Kid: k.KID, Algorithm: api.KeyAlgorithm(k.Algorithm), Source: api.KeySource(k.Source), State: api.KeyState(k.State),
		CreatedAt: k.CreatedAt, ActiveAt: k.ActiveAt, ExpiresAt: k.ExpiresAt,
	}
	if k.Service != "" {
		shown.Service = &k.Service
	}
	if !k.NotAfter.IsZero() {
		shown.CertificateExpiresAt = &k.NotAfter
	}
	return shown
}

// ListKeys lists the keys that are alive, without what is private of them.
func (h *Admin) ListKeys(ctx context.Context, _ api.ListKeysRequestObject) (api.ListKeysResponseObject, error) {
	keys, err := h.Keys.List(ctx)
	if err != nil {
		return nil, err
	}
	return api.ListKeys200JSONResponse{Items: each(keys, keyOf)}, nil
}

// RotateKey gives a service, or the registry itself, its next key.
func (h *Admin) RotateKey(ctx context.Context, r api.RotateKeyRequestObject) (api.RotateKeyResponseObject, error) {
	rotation := token.Rotation{}
	if r.Body.Delay != nil {
		delay := time.Duration(*r.Body.Delay) * time.Second
		rotation.Delay = &delay
	}
	if r.Body.Algorithm != nil {
		rotation.Algorithm = string(*r.Body.Algorithm)
	}
	if r.Body.PrivateKey != nil {
		if r.Body.Algorithm != nil {
			return nil, oci.Errorf(oci.CodeInvalid, "a key that is given has its own algorithm: leave out \"algorithm\", or \"private_key\"")
		}
		var err error
		if rotation.Material, err = token.ParseMaterial([]byte(*r.Body.PrivateKey)); err != nil {
			return nil, oci.Errorf(oci.CodeInvalid, "the private_key cannot be used: %w", err)
		}
	}
	key, err := h.People.RotateKey(ctx, callOf(ctx).actor, valueOf(r.Body.Service), rotation)
	if err != nil {
		return nil, err
	}
	return api.RotateKey201JSONResponse(keyOf(key)), nil
}

// RetireKey removes a key at once.
func (h *Admin) RetireKey(ctx context.Context, r api.RetireKeyRequestObject) (api.RetireKeyResponseObject, error) {
	if err := h.People.RetireKey(ctx, callOf(ctx).actor, valueOf(r.Params.Service), r.Kid); err != nil {
		return nil, err
	}
	return api.RetireKey204Response{}, nil
}

func valueOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
