package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"berth/oci"
)

// ThrottleEntries is for the tests outside of the package.
func ThrottleEntries(c *Chain) int { return c.throttle.buckets.Len() }

// ThrottleTrying is the number of names whose credentials are being checked.
func ThrottleTrying(c *Chain) int {
	c.throttle.mu.Lock()
	defer c.throttle.mu.Unlock()
	return len(c.throttle.trying)
}

func TestHash(t *testing.T) {
	ctx := context.Background()
	h := NewHasher(0)
	hash, err := h.Hash(ctx, "päss word")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") || h.Check(hash) != nil {
		t.Errorf("hash %s", hash)
	}
	if other, _ := h.Hash(ctx, "päss word"); other == hash {
		t.Error("two hashes of one password are equal")
	}
	imported, err := bcrypt.GenerateFromPassword([]byte("imported"), 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		hash, password string
		want           bool
	}{
		{hash, "päss word", true},
		{hash, "pass word", false},
		{hash, "", false},
		{hash, strings.Repeat("x", 2000), false},
		{string(imported), "imported", true},
		{strings.Replace(string(imported), "$2a$", "$2y$", 1), "imported", true}, // as htpasswd writes it
		{string(imported), "other", false},
		// Another implementation's hash (argon2 of Debian: echo -n password | argon2 somesalt -id -t 2 -k 65536).
		{"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password", true},
	} {
		if ok, err := h.Verify(ctx, tt.hash, tt.password); ok != tt.want || err != nil {
			t.Errorf("%s with %.20q: %v, %v", tt.hash, tt.password, ok, err)
		}
	}
	for _, password := range []string{"", strings.Repeat("x", 1025)} {
		if _, err := h.Hash(ctx, password); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("a password of %d bytes: %v", len(password), err)
		}
	}
}

// TestUnusableHash: what would cost too much, or is no hash, is no "wrong
// password" but an error.
func TestUnusableHash(t *testing.T) {
	h := NewHasher(0)
	for _, hash := range []string{
		"", "x", "plain", "$1$md5$xxxx", "{SHA}xxxx",
		"$2a$31$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ0123456",
		"$2a$xx", "$2b$10$short",
		"$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=1000,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=0,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=-1,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=18$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2,p=1$$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$!!!",
		"$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	} {
		if ok, err := h.Verify(context.Background(), hash, "x"); ok || err == nil {
			t.Errorf("%q: %v, %v", hash, ok, err)
		}
		if err := h.Check(hash); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("Check(%q): %v", hash, err)
		}
	}
}

// TestHasherIsBounded: no more hashes run at a time than there are slots, and
// who waits too long is told that it cannot be said now.
func TestHasherIsBounded(t *testing.T) {
	h := NewHasher(1)
	hold, err := h.acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	hash, _ := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if ok, err := h.Verify(ctx, string(hash), "x"); ok || !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("without a slot: %v, %v", ok, err)
	}
	hold()
	if ok, err := h.Verify(context.Background(), string(hash), "x"); !ok || err != nil {
		t.Errorf("with a slot: %v, %v", ok, err)
	}
}

// TestTurns: one address waits behind itself; another one does not.
func TestTurns(t *testing.T) {
	turns := NewTurns(hashesPerAddress)
	ctx := context.Background()
	var held []func()
	for range hashesPerAddress {
		release, err := turns.Take(ctx, "flooder")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, release)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := turns.Take(short, "flooder"); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("one too many: %v", err)
	}
	release, err := turns.Take(ctx, "honest")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		again, err := turns.Take(ctx, "flooder")
		if err != nil {
			t.Error(err)
			return
		}
		again()
	})
	for _, f := range append(held, release) {
		f()
	}
	wg.Wait()

	// So many may wait, and no more.
	crowd := NewTurns(1)
	waiting, leave := context.WithCancel(ctx)
	if _, err := crowd.Take(ctx, "flooder"); err != nil {
		t.Fatal(err)
	}
	for range maxWaiting {
		wg.Go(func() {
			if _, err := crowd.Take(waiting, "flooder"); !errors.Is(err, oci.ErrUnavailable) {
				t.Error(err)
			}
		})
	}
	for n := 0; n < maxWaiting+1; time.Sleep(time.Millisecond) {
		crowd.mu.Lock()
		n = crowd.places["flooder"].users
		crowd.mu.Unlock()
	}
	if _, err := crowd.Take(ctx, "flooder"); !errors.Is(err, oci.ErrUnavailable) { // at once
		t.Errorf("one more than may wait: %v", err)
	}
	leave()
	wg.Wait()
	if len(turns.places) != 0 {
		t.Errorf("%d addresses are remembered", len(turns.places))
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Add("$2a$05$abcdefghijklmnopqrstuu")
	f.Fuzz(func(t *testing.T, hash string) {
		p, _, key, err := parseArgon(hash)
		if err == nil && (p.memory > maxArgonMemory || p.time > maxArgonTime || p.threads > maxArgonThreads || p.time == 0 || p.threads == 0 || len(key) < 16) {
			t.Fatalf("%q: %+v", hash, p)
		}
		_, _ = parseHash(hash)
	})
}

// A token is masked wherever it stands in a text: also behind and before what touches it.
func TestMaskSecretsThatTouchOtherText(t *testing.T) {
	secret, _ := NewSecret(RobotPrefix)
	for text, want := range map[string]string{
		"/v2/" + secret + "/x":  "/v2/berth_rob_***/x",
		"/v2/x" + secret + "/x": "/v2/xberth_rob_***/x",
		"user_" + secret:        "user_berth_rob_***",
		secret[:20]:             "berth_rob_***",
		"berth and they":        "berth and they",
		"berth_url":             "berth_url",
	} {
		if got := MaskSecrets(text); got != want {
			t.Errorf("%q is logged as %q, want %q", text, got, want)
		}
	}
}

func TestSecret(t *testing.T) {
	seen := map[string]bool{}
	for _, prefix := range []string{PersonalPrefix, RobotPrefix} {
		for range 200 {
			secret, hash := NewSecret(prefix)
			if !strings.HasPrefix(secret, prefix) || !IsSecret(secret) || hash != SecretHash(secret) || len(hash) != 64 || seen[secret] {
				t.Fatalf("secret %q, hash %q", secret, hash)
			}
			seen[secret] = true
		}
	}
	secret, _ := NewSecret(PersonalPrefix)
	// One wrong character anywhere is seen without a query.
	for i := range len(secret) {
		other := []byte(secret)
		other[i]++
		if IsSecret(string(other)) {
			t.Errorf("%q is taken for %q", other, secret)
		}
	}
	for _, s := range []string{"", secret[:len(secret)-1], secret + "0", strings.Replace(secret, PersonalPrefix, RobotPrefix, 1), PersonalPrefix, strings.ToUpper(secret)} {
		if IsSecret(s) {
			t.Errorf("%q is taken for a secret", s)
		}
	}
}

func TestParseUserName(t *testing.T) {
	for name, ok := range map[string]bool{
		"alice": true, "a": true, "0": true, "alice.b-c_d": true, "a@example.com": true, "Alice": true,
		"": false, ".a": false, "-a": false, "_a": false, "a b": false, "team+robot": false, "a/b": false, "a:b": false, "ä": false, "a\n": false,
		"anonymous": false, "Anonymous": false, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false,
	} {
		if _, err := ParseUserName(name); (err == nil) != ok {
			t.Errorf("ParseUserName(%.20q): %v", name, err)
		}
	}
}
