package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"berth/oci"
)

// argonParams are the cost of an argon2id hash: memory in KiB, passes, lanes.
type argonParams struct {
	memory, time uint32
	threads      uint8
}

// OWASP's second choice (19 MiB, 2 passes, 1 lane): about 25 ms of one
// processor, and memory that a small machine has.
var newHashes = argonParams{memory: 19 * 1024, time: 2, threads: 1}

// What an imported hash may cost at most; beyond it every sign-in of that user
// would be an attack on the server.
const (
	maxArgonMemory  = 256 * 1024 // KiB
	maxArgonTime    = 16
	maxArgonThreads = 16
	maxBcryptCost   = 14
	argonSaltLen    = 16
	argonKeyLen     = 32
	maxArgonKeyLen  = 128
)

// maxPasswordLen bounds a password in bytes.
const maxPasswordLen = 1024

// Hasher makes and verifies password hashes in PHC form: argon2id for new
// ones, and argon2id and bcrypt ($2a$, $2b$, $2y$) for what is imported. It
// runs few of them at a time, so that a flood of sign-ins can eat neither all
// memory nor all processors; the others wait. Safe for concurrent use.
type Hasher struct {
	slots chan struct{}
	runs  atomic.Int64
}

// NewHasher makes a Hasher that runs the given number of hashes at a time; 0
// is one per processor.
func NewHasher(concurrent int) *Hasher {
	if concurrent <= 0 {
		concurrent = runtime.GOMAXPROCS(0)
	}
	return &Hasher{slots: make(chan struct{}, concurrent)}
}

// acquire waits for a slot. That none became free in time is UNAVAILABLE: it
// says nothing about the password.
func (h *Hasher) acquire(ctx context.Context) (release func(), err error) {
	select {
	case h.slots <- struct{}{}:
		h.runs.Add(1)
		return func() {
			<-h.slots
			// The runtime would collect the hash's 19 MiB only when the heap has grown to a multiple of
			// them; and what else came into the heap until then would keep it from shrinking again.
			if len(h.slots) == 0 {
				go runtime.GC()
			}
		}, nil
	case <-ctx.Done():
		return nil, oci.Errorf(oci.CodeUnavailable, "too many sign-ins are being checked at the moment, try again in a few seconds").WithCause(ctx.Err())
	}
}

// Runs is how many hashes were computed so far, wasted ones included.
func (h *Hasher) Runs() int64 { return h.runs.Load() }

// Hash makes the hash of a new password. The error is INVALID for a password
// that is empty or longer than 1024 bytes, and UNAVAILABLE when the context
// ended before its turn.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if password == "" || len(password) > maxPasswordLen {
		return "", oci.Errorf(oci.CodeInvalid, "a password has 1 to %d bytes, this one has %d", maxPasswordLen, len(password))
	}
	release, err := h.acquire(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	var salt [argonSaltLen]byte
	_, _ = rand.Read(salt[:]) // never fails: see crypto/rand
	p := newHashes
	key := argon2.IDKey([]byte(password), salt[:], p.time, p.memory, p.threads, argonKeyLen)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads,
		base64.RawStdEncoding.EncodeToString(salt[:]), base64.RawStdEncoding.EncodeToString(key)), nil
}

// Check reports whether a hash, e.g. an imported one, is of a form that Verify
// takes, and of bounded cost. The error is an INVALID.
func (h *Hasher) Check(hash string) error {
	if _, err := parseHash(hash); err != nil {
		return oci.Errorf(oci.CodeInvalid, "the password hash cannot be used: %v. Use argon2id or bcrypt in PHC form", err)
	}
	return nil
}

// Verify reports whether the password has the hash. An error says that it
// could not be found out: the hash is unusable, or no turn came before the
// context ended (UNAVAILABLE).
func (h *Hasher) Verify(ctx context.Context, hash, password string) (bool, error) {
	verify, err := parseHash(hash)
	if err != nil {
		return false, fmt.Errorf("a stored password hash cannot be used: %w", err)
	}
	if len(password) > maxPasswordLen {
		return false, nil
	}
	release, err := h.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	return verify(password), nil
}

// Waste takes as long as Verify of a hash made by Hash.
func (h *Hasher) Waste(ctx context.Context, password string) {
	if len(password) > maxPasswordLen {
		return
	}
	release, err := h.acquire(ctx)
	if err != nil {
		return
	}
	defer release()
	p := newHashes
	argon2.IDKey([]byte(password), make([]byte, argonSaltLen), p.time, p.memory, p.threads, argonKeyLen)
}

// parseHash reads a PHC string and gives the function that compares with it.
func parseHash(hash string) (verify func(password string) bool, err error) {
	switch {
	case strings.HasPrefix(hash, "$2a$"), strings.HasPrefix(hash, "$2b$"), strings.HasPrefix(hash, "$2y$"):
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil {
			return nil, err
		}
		if cost > maxBcryptCost {
			return nil, fmt.Errorf("bcrypt cost %d is over the limit of %d", cost, maxBcryptCost)
		}
		return func(password string) bool {
			return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
		}, nil
	case strings.HasPrefix(hash, "$argon2id$"):
		p, salt, key, err := parseArgon(hash)
		if err != nil {
			return nil, err
		}
		return func(password string) bool {
			got := argon2.IDKey([]byte(password), salt, p.time, p.memory, p.threads, uint32(len(key)))
			return subtle.ConstantTimeCompare(got, key) == 1
		}, nil
	}
	return nil, errors.New("its form is not known")
}

func parseArgon(hash string) (p argonParams, salt, key []byte, err error) {
	parts := strings.Split(hash, "$") // "", argon2id, v=19, m=..,t=..,p=.., salt, key
	if len(parts) != 6 || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return p, nil, nil, errors.New("it is not $argon2id$v=19$m=..,t=..,p=..$salt$key")
	}
	costs := strings.Split(parts[3], ",")
	if len(costs) != 3 {
		return p, nil, nil, fmt.Errorf("its parameters %q are not memory, time and threads (m=65536,t=2,p=1)", parts[3])
	}
	number := func(s, prefix string, limit uint64) uint64 {
		digits, ok := strings.CutPrefix(s, prefix)
		n, convErr := strconv.ParseUint(digits, 10, 32)
		if err == nil && (!ok || convErr != nil || n < 1 || n > limit) {
			err = fmt.Errorf("its parameter %q is not %s1 to %s%d", s, prefix, prefix, limit)
		}
		return n
	}
	p.memory = uint32(number(costs[0], "m=", maxArgonMemory))
	p.time = uint32(number(costs[1], "t=", maxArgonTime))
	p.threads = uint8(number(costs[2], "p=", maxArgonThreads))
	if err != nil {
		return p, nil, nil, err
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(salt) < 8 || len(salt) > maxArgonKeyLen {
		return p, nil, nil, errors.New("its salt is not 8 bytes or more of base64")
	}
	if key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(key) < 16 || len(key) > maxArgonKeyLen {
		return p, nil, nil, errors.New("its key is not 16 bytes or more of base64")
	}
	return p, salt, key, nil
}
