package people

import (
	"context"
	"slices"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/oci"
)

// PutService makes a service with its first key, or changes one; another algorithm comes
// with another key. fields are what the audit log tells. It returns INVALID, DENIED, or
// CONFLICT when somebody changes it at the same time. condition may be nil; when it is
// not, there has to be a service.
func (p *People) PutService(ctx context.Context, by auth.Actor, s metadata.Service, fields any, condition func(metadata.Service) error) (service metadata.Service, err error) {
	switch {
	case s.Name == p.o.Service:
		return service, oci.Errorf(oci.CodeInvalid, "%s is the name of this registry itself: its tokens need no service", s.Name)
	case s.AnonymousPull != "":
		if err := parsePatterns(s.AnonymousPull, ""); err != nil {
			return service, err
		}
	}
	if err := mayService(by); err != nil {
		return service, err
	}
	before, err := p.Service(ctx, s.Name)
	if err != nil && !isNotFound(err) {
		return service, err
	}
	otherKey := err == nil && before.Algorithm != s.Algorithm
	change := func(b *Batch) error {
		before, err := b.tx.LockService(ctx, s.Name)
		switch {
		case err == nil:
			if err := check(condition, before); err != nil {
				return err
			}
			if !otherKey && before.Algorithm != s.Algorithm {
				return oci.Errorf(oci.CodeConflict, "somebody has changed the service %s at the same time: look at it, and try again", s.Name)
			}
		case !isNotFound(err) || condition != nil:
			return err
		}
		if service, _, err = b.tx.PutService(ctx, s); err != nil {
			return err
		}
		return b.record(ctx, by, "putService", Params{"service": s.Name}, fields)
	}
	if otherKey { // and so it gets one of the new algorithm, or does not change
		_, err = p.o.Keys.Rotate(ctx, s.Name, token.Rotation{Algorithm: s.Algorithm, Also: func(tx *metadata.Tx) error { return change(&Batch{tx, p.o}) }})
		return service, err
	}
	if err := do(ctx, p, change); err != nil {
		return service, err
	}
	return service, p.o.Keys.Ensure(ctx, service)
}

// mayService refuses what other registries take for the word of this one.
func mayService(by auth.Actor) error {
	return by.MayGive(auth.Right{What: "a service", Limit: auth.Everything()})
}

// CreateService makes a service whose key comes from elsewhere; see ImportKey. The errors
// are those of PutService.
func (b *Batch) CreateService(ctx context.Context, by auth.Actor, s metadata.Service, from string) (metadata.Service, error) {
	if err := mayService(by); err != nil {
		return s, err
	}
	made, _, err := b.tx.PutService(ctx, s)
	if err != nil {
		return s, err
	}
	return made, b.record(ctx, by, "putService", Params{"service": s.Name}, map[string]string{"from": from})
}

// ImportKey makes a key sign for a service at once: other registries know it already.
func (b *Batch) ImportKey(ctx context.Context, by auth.Actor, s metadata.Service, key metadata.SigningKey, from string) error {
	if err := by.MayGive(auth.Right{What: "a signing key", Limit: auth.Everything()}); err != nil {
		return err
	}
	key.ActiveAt = b.tx.Now()
	if err := b.tx.AddSigningKey(ctx, key, token.KeepFor(s)); err != nil {
		return err
	}
	return b.record(ctx, by, "rotateKey", Params{"kid": key.KID}, map[string]string{"service": s.Name, "from": from})
}

// DeleteService removes a service with its keys. It returns NOT_FOUND. condition may be nil.
func (p *People) DeleteService(ctx context.Context, by auth.Actor, name string, condition func(metadata.Service) error) error {
	return do(ctx, p, func(b *Batch) error {
		before, err := b.tx.LockService(ctx, name)
		if err != nil {
			return err
		}
		if err := check(condition, before); err != nil {
			return err
		}
		if err := b.tx.DeleteService(ctx, name); err != nil {
			return err
		}
		return b.record(ctx, by, "deleteService", Params{"service": name}, nil)
	})
}

// Service gives another registry that takes our tokens. It returns NOT_FOUND.
func (p *People) Service(ctx context.Context, name string) (metadata.Service, error) {
	return view(ctx, p, func(tx *metadata.Tx) (metadata.Service, error) { return tx.Service(ctx, name) })
}

// Services lists other registries that take our tokens behind a name, in byte order, at most
// limit.
func (p *People) Services(ctx context.Context, after string, limit int) ([]metadata.Service, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.Service, error) { return tx.Services(ctx, after, limit) })
}

// LockService gives a service, which nobody else changes until the batch is done. It returns
// NOT_FOUND.
func (b *Batch) LockService(ctx context.Context, name string) (metadata.Service, error) {
	return b.tx.LockService(ctx, name)
}

// HasKey reports whether a service has the key of this id.
func (b *Batch) HasKey(ctx context.Context, s metadata.Service, kid string) (bool, error) {
	keys, err := b.tx.SigningKeys(ctx)
	return slices.ContainsFunc(keys, func(k metadata.SigningKey) bool { return k.ServiceID == s.ID && k.KID == kid }), err
}
