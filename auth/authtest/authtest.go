// Package authtest is the contract of auth.Authenticator in executable form.
// Every authenticator passes [Test].
package authtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/auth"
)

// Fixture is an authenticator with what the contract is tested on.
type Fixture struct {
	Authenticator auth.Authenticator
	// Good are credentials that hold, and Who is whom they name.
	Good auth.Credentials
	Who  string
	// Wrong are credentials that are this authenticator's and do not hold.
	Wrong []auth.Credentials
	// Foreign are credentials for somebody else.
	Foreign []auth.Credentials
	// Break makes the authenticator's dependency unreachable, for good. It is called last; nil
	// is an authenticator without any.
	Break func()
}

// Test runs the contract.
func Test(t *testing.T, open func(t *testing.T) Fixture) {
	ctx := context.Background()

	t.Run("good", func(t *testing.T) {
		f := open(t)
		for range 2 { // the second time from a cache, if there is one
			p, err := f.Authenticator.Authenticate(ctx, f.Good)
			if err != nil || p.String() != f.Who || p.IsAnonymous() {
				t.Fatalf("%v, %v, want %s", p, err, f.Who)
			}
		}
	})

	t.Run("wrong", func(t *testing.T) {
		f := open(t)
		for _, c := range f.Wrong {
			p, err := f.Authenticator.Authenticate(ctx, c)
			if !errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() {
				t.Errorf("%v: %v, %v, want ErrWrong", c, p, err)
			}
			NoSecret(t, err, c)
		}
	})

	t.Run("not mine", func(t *testing.T) {
		f := open(t)
		odd := []auth.Credentials{{}, {Username: "\x00", Password: "\x00"}, {Username: strings.Repeat("x", 1<<20), Password: "p"}, {Bearer: strings.Repeat("x", 1<<20)}, {Username: "'; --", Password: "'"}}
		for _, c := range append(odd, f.Foreign...) {
			p, err := f.Authenticator.Authenticate(ctx, c)
			if !errors.Is(err, auth.ErrNotMine) || !p.IsAnonymous() {
				t.Errorf("%.80v: %v, %v, want ErrNotMine", c, p, err)
			}
		}
	})

	t.Run("concurrent", func(t *testing.T) {
		f := open(t)
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				c, good := f.Good, i%2 == 0
				if !good {
					c = f.Wrong[i/2%len(f.Wrong)]
				}
				p, err := f.Authenticator.Authenticate(ctx, c)
				if good && (err != nil || p.String() != f.Who) || !good && !errors.Is(err, auth.ErrWrong) {
					t.Errorf("%v: %v, %v", c, p, err)
				}
			})
		}
		wg.Wait()
	})

	t.Run("cannot say", func(t *testing.T) {
		f := open(t)
		if f.Break == nil {
			t.SkipNow()
		}
		f.Break()
		began := time.Now()
		p, err := f.Authenticator.Authenticate(ctx, f.Good)
		if err == nil || errors.Is(err, auth.ErrWrong) || errors.Is(err, auth.ErrNotMine) || !p.IsAnonymous() {
			t.Errorf("with a broken dependency: %v, %v", p, err)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %s to say so", took)
		}
		NoSecret(t, err, f.Good)
	})
}

// NoSecret checks that neither an error nor printed credentials show a secret.
func NoSecret(t *testing.T, err error, c auth.Credentials) {
	t.Helper()
	printed := fmt.Sprintf("%v %+v %#v %s", c, c, c, c)
	if err != nil {
		printed += err.Error() + auth.WrongReason(err)
	}
	for _, secret := range []string{c.Password, c.Bearer} {
		if len(secret) > 3 && strings.Contains(printed, secret) {
			t.Errorf("a secret is shown: %s", printed)
		}
	}
}
