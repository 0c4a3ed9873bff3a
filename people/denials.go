package people

import (
	"context"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// PutDenial makes a denial, or changes it, which takes the one before back. It returns
// INVALID, DENIED, CONFLICT for too many, and PRECONDITION_FAILED when condition is given
// and there is none. condition may be nil.
func (p *People) PutDenial(ctx context.Context, by auth.Actor, d metadata.Denial, condition func(metadata.Denial) error) (metadata.Denial, error) {
	// A name with a colon is a machine's ("aws:123456789012"): what says "user:alice" would deny nobody.
	if kind, rest, ok := strings.Cut(d.Principal, ":"); ok && kind != "aws" && !strings.ContainsAny(kind, "*?") {
		return metadata.Denial{}, oci.Errorf(oci.CodeInvalid, "the principal %.140q is nobody's name: write a user as alice, a robot as team+robot, and a machine as aws:account; did you mean %.140q?", d.Principal, rest)
	}
	d.CreatedBy = by.Audit.Name
	return in(ctx, p, func(b *Batch) (stored metadata.Denial, err error) {
		if err := b.tx.LockDenials(ctx); err != nil {
			return stored, err
		}
		before, err := b.tx.Denial(ctx, d.Name)
		switch {
		case err == nil:
			if err := check(condition, before); err != nil {
				return stored, err
			}
			if err := mayLift(by, before); err != nil {
				return stored, err
			}
		case !isNotFound(err):
			return stored, err
		case condition != nil:
			return stored, oci.Errorf(oci.CodePreconditionFailed, "there is no denial %s any more, and If-Match asks for one", d.Name)
		}
		if stored, _, err = b.tx.PutDenial(ctx, d); err != nil {
			return stored, err
		}
		return stored, b.record(ctx, by, "putDenial", Params{"denial": d.Name}, struct {
			Principal  string   `json:"principal,omitempty"`
			CIDR       string   `json:"cidr,omitempty"`
			Repository string   `json:"repository,omitempty"`
			Actions    []string `json:"actions"`
			Reason     string   `json:"reason,omitempty"`
		}{d.Principal, d.CIDR, d.Repository, d.Actions, d.Reason})
	})
}

// mayLift refuses to take back a denial with a credential that has not what it denies.
func mayLift(by auth.Actor, d metadata.Denial) error {
	l, err := limit(d.Repository, d.Actions)
	if err != nil {
		return err
	}
	return by.MayGive(auth.Right{What: "what a denial denies", Limit: l})
}

// DeleteDenial takes a denial back. It returns NOT_FOUND or DENIED. condition may be nil.
func (p *People) DeleteDenial(ctx context.Context, by auth.Actor, name string, condition func(metadata.Denial) error) error {
	return do(ctx, p, func(b *Batch) error {
		if err := b.tx.LockDenials(ctx); err != nil {
			return err
		}
		before, err := b.tx.Denial(ctx, name)
		if err != nil {
			return err
		}
		if err := check(condition, before); err != nil {
			return err
		}
		if err := mayLift(by, before); err != nil {
			return err
		}
		if err := b.tx.DeleteDenial(ctx, name); err != nil {
			return err
		}
		return b.record(ctx, by, "deleteDenial", Params{"denial": name}, nil)
	})
}

// Denials lists denials behind a name, in byte order, at most limit.
func (p *People) Denials(ctx context.Context, after string, limit int) ([]metadata.Denial, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.Denial, error) { return tx.Denials(ctx, after, limit) })
}

// Denial gives a denial. It returns NOT_FOUND.
func (p *People) Denial(ctx context.Context, name string) (metadata.Denial, error) {
	return view(ctx, p, func(tx *metadata.Tx) (metadata.Denial, error) { return tx.Denial(ctx, name) })
}
