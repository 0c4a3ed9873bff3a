package token

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"berth/metadata"
	"berth/oci"
)

const (
	// keyringAge is how long the keys are used without a look at the database.
	// A new key is therefore signed with everywhere after this time.
	keyringAge = 5 * time.Minute
	// keyringRetry is the least time between two looks for an unknown key, so that
	// invented key ids cost nothing.
	keyringRetry = time.Second
	// keyringTimeout bounds one look.
	keyringTimeout = 5 * time.Second
	// verifyLeeway is what registries forgive at a token's end.
	verifyLeeway = time.Minute
)

// KeyOptions say how keys are made and changed. The zero value is usable.
type KeyOptions struct {
	// Algorithm of our own tokens; the default is ES256.
	Algorithm string
	// PublishDelay is how long a new key is in the bundle and the JWKS before it
	// signs, so that others know it by then. A registry reads its bundle only
	// when it starts.
	PublishDelay time.Duration
	// CertificateLife is how long a certificate that is made here is valid; the
	// default is two years. Its key is replaced when a tenth of it is left.
	CertificateLife time.Duration
	// Files bring keys. They are read by LoadFiles only.
	Files []KeyFile
	// Logger gets what became of keys; nil is nobody.
	Logger *slog.Logger
}

// AllServices is the KeyFile.Service for every service without a file of its own.
const AllServices = "*"

// KeyFile is a key that the operator brings.
type KeyFile struct {
	// Service is who signs with it: a service, AllServices, or "" for our own tokens.
	Service string
	// Key is the path of the PEM file with the private key, which may also have the
	// certificates.
	Key string
	// Certificates is the path of the PEM file with the certificates, or "".
	Certificates string
}

// key is a row of the database, read.
type key struct {
	*Material
	row metadata.SigningKey
	x5c []string // the chain as a token's header has it
}

// dead reports whether the key verifies nothing any more.
func (k *key) dead(now time.Time) bool {
	return k.row.ExpiresAt != nil && !now.Before(*k.row.ExpiresAt)
}

// ring is the keys of one service, newest first.
type ring []*key

// signing gives the key that signs now, or nil: the newest of those that are
// active. When a replica's clock is behind that of the one which made the first
// key, it is that key all the same.
func (r ring) signing(now time.Time) *key {
	var oldest *key
	for _, k := range r {
		if k.dead(now) {
			continue
		}
		if !k.row.ActiveAt.After(now) {
			return k
		}
		oldest = k
	}
	return oldest
}

// keyset is never changed, only replaced.
type keyset struct {
	rings  map[int64]ring // by service, 0 is our own
	broken map[int64]error
	read   time.Time
}

// recent reports whether the keys may be used without a look at the database.
func (s *keyset) recent(now time.Time) bool { return now.Sub(s.read) <= keyringAge }

// find gives the key of our own that has the id.
func (s *keyset) find(id string, now time.Time) *key {
	for _, k := range s.rings[0] {
		if k.kid == id && !k.dead(now) {
			return k
		}
	}
	return nil
}

// Keys are the signing keys of all services, in the database so that every
// replica has them. They are read again when they are old, and when a token
// names a key that is missing. Nobody waits for the database who can do with
// what is in memory. Safe for concurrent use.
type Keys struct {
	db      *metadata.DB
	clock   func() time.Time
	options KeyOptions
	keep    time.Duration // how long a key of our own verifies after its successor began
	log     *slog.Logger
	current atomic.Pointer[keyset]
	loads   singleflight.Group

	filesMu sync.Mutex // LoadFiles
	files   []*watchedFile
}

// openKeys reads the keys and makes our own first one. Of any number of replicas
// that start on an empty database, one makes it and all use it.
func openKeys(ctx context.Context, db *metadata.DB, clock func() time.Time, keep time.Duration, o KeyOptions) (*Keys, error) {
	if o.Algorithm == "" {
		o.Algorithm = ES256
	}
	if signingMethod(o.Algorithm) == nil {
		return nil, fmt.Errorf("there is no algorithm %q", o.Algorithm)
	}
	if o.CertificateLife <= 0 {
		o.CertificateLife = 2 * 365 * 24 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keys{db: db, clock: clock, options: o, keep: keep + keyringAge + verifyLeeway, log: o.Logger}
	for _, f := range o.Files {
		k.files = append(k.files, &watchedFile{KeyFile: f, done: map[int64]string{}})
	}
	set, err := k.load(ctx)
	if err != nil {
		return nil, err
	}
	if err := set.broken[0]; err != nil {
		return nil, err
	}
	if err := k.LoadFiles(ctx); err != nil {
		return nil, err
	}
	own := metadata.Service{Name: "", Algorithm: o.Algorithm}
	if _, err := k.ensure(ctx, own); err != nil {
		return nil, err
	}
	set = k.current.Load()
	// A key from before there were certificates gets one.
	for _, old := range set.rings[0] {
		if len(old.chain) > 0 {
			continue
		}
		if err := k.certifyRow(ctx, old); err != nil {
			return nil, err
		}
	}
	// Another algorithm in the settings is a new key.
	newest := set.rings[0][0]
	if newest.algorithm != o.Algorithm && newest.row.Source == metadata.KeyGenerated {
		if _, err := k.Rotate(ctx, "", Rotation{Algorithm: o.Algorithm}); err != nil {
			return nil, err
		}
	}
	_, err = k.load(ctx)
	return k, err
}

func (k *Keys) certifyRow(ctx context.Context, old *key) error {
	m := *old.Material
	if err := m.certify(old.row.Service, k.clock(), k.options.CertificateLife); err != nil {
		return err
	}
	return k.db.Update(ctx, func(tx *metadata.Tx) error {
		return tx.SetKeyCertificates(ctx, old.row.ID, "", pemChain(m.chain))
	})
}

// load reads the keys from the database, once for all who want them at the
// same time.
func (k *Keys) load(ctx context.Context) (*keyset, error) {
	loaded, err, _ := k.loads.Do("", func() (any, error) {
		// The others who wait should not suffer from one client that hangs up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyringTimeout)
		defer cancel()
		var rows []metadata.SigningKey
		err := k.db.View(ctx, func(tx *metadata.Tx) (err error) {
			rows, err = tx.SigningKeys(ctx)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("reading the signing keys: %w", err)
		}
		known := map[int64]*key{}
		if before := k.current.Load(); before != nil {
			for _, r := range before.rings {
				for _, one := range r {
					known[one.row.ID] = one
				}
			}
		}
		set := &keyset{rings: map[int64]ring{}, broken: map[int64]error{}, read: k.clock()}
		for _, row := range rows {
			one := known[row.ID]
			// Reading an RSA key takes milliseconds, and a row's key never changes.
			if one == nil || one.row.KID != row.KID || one.row.Certificates != row.Certificates {
				if one, err = readKey(row); err != nil {
					// One service's trouble is not another's.
					set.broken[row.ServiceID] = fmt.Errorf("the signing key %s in the database: %w", row.KID, err)
					continue
				}
			} else {
				one = &key{Material: one.Material, row: row, x5c: one.x5c}
			}
			set.rings[row.ServiceID] = append(set.rings[row.ServiceID], one)
		}
		k.current.Store(set)
		return set, nil
	})
	if err != nil {
		return nil, err
	}
	return loaded.(*keyset), nil
}

// readKey reads a row and gives the key the id that its value has: what stands
// in the row's id does not matter.
func readKey(row metadata.SigningKey) (*key, error) {
	m, err := ParseMaterial([]byte(row.PrivatePEM), []byte(row.Certificates))
	if err != nil {
		return nil, err
	}
	one := &key{Material: m, row: row}
	for _, c := range m.chain {
		one.x5c = append(one.x5c, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return one, nil
}

// fresh gives the keys, read again when they are older than age. When the
// database is down, those that we have go on serving.
func (k *Keys) fresh(ctx context.Context, age time.Duration) (*keyset, error) {
	set := k.current.Load()
	if k.clock().Sub(set.read) <= age {
		return set, nil
	}
	newer, err := k.load(ctx)
	switch {
	case err == nil:
		return newer, nil
	case len(set.rings) > 0:
		return set, nil
	}
	return nil, err
}

// signing gives the key that signs for a service now.
func (k *Keys) signing(ctx context.Context, s metadata.Service) (*key, error) {
	set, err := k.fresh(ctx, keyringAge)
	if err != nil {
		return nil, err
	}
	now := k.clock()
	if one := set.rings[s.ID].signing(now); one != nil {
		return one, nil
	}
	if set, err = k.ensure(ctx, s); err != nil {
		return nil, err
	}
	if one := set.rings[s.ID].signing(now); one != nil {
		return one, nil
	}
	if err := set.broken[s.ID]; err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("no key of the service %q is active", s.Name)
}

// find gives our own key of an id, or nil when there is none. An error says that
// it could not be found out. A key that is known is looked up again when it was read
// long ago: another replica may have retired it.
func (k *Keys) find(ctx context.Context, id string) (*key, error) {
	now := k.clock()
	set := k.current.Load()
	one := set.find(id, now)
	if one != nil && set.recent(now) || one == nil && now.Sub(set.read) < keyringRetry {
		return one, nil
	}
	newer, err := k.load(ctx)
	switch {
	case err == nil:
		return newer.find(id, now), nil
	case one != nil: // as fresh does
		return one, nil
	}
	return nil, err
}

// Ensure makes the first key of a service that has none: from a file of the
// settings, or a new one. It returns NOT_FOUND when the service is gone.
func (k *Keys) Ensure(ctx context.Context, s metadata.Service) error {
	_, err := k.ensure(ctx, s)
	return err
}

func (k *Keys) ensure(ctx context.Context, s metadata.Service) (*keyset, error) {
	set, err := k.load(ctx)
	if err != nil || len(set.rings[s.ID]) > 0 || set.broken[s.ID] != nil {
		return set, err
	}
	m, source := k.brought(s.Name), metadata.KeyFile
	if m == nil {
		source = metadata.KeyGenerated
		if m, err = generate(s.Algorithm); err != nil {
			return nil, err
		}
	}
	row, err := k.row(s, m, source)
	if err != nil {
		return nil, err
	}
	var made bool
	err = k.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		made, err = tx.InsertFirstSigningKey(ctx, row)
		return err
	})
	if err != nil {
		return nil, err
	}
	if made {
		k.log.Info("first signing key", "service", s.Name, "kid", m.kid, "algorithm", m.algorithm, "source", source)
	}
	return k.load(ctx)
}

// row makes what the database keeps of a key.
func (k *Keys) row(s metadata.Service, m *Material, source string) (metadata.SigningKey, error) {
	return m.SigningKey(s, source, k.clock(), k.options.CertificateLife)
}

// SigningKey makes what the database keeps of a key for a service. One without a
// certificate gets one that lives so long. The error says why the key cannot sign.
func (m *Material) SigningKey(s metadata.Service, source string, now time.Time, life time.Duration) (metadata.SigningKey, error) {
	if s.ID != 0 && m.algorithm == EdDSA {
		return metadata.SigningKey{}, errors.New("registries that take our tokens do not know Ed25519: use EC P-256 or P-384, or RSA")
	}
	if err := m.usable(now); err != nil {
		return metadata.SigningKey{}, err
	}
	certified := *m
	if err := certified.certify(s.Name, now, life); err != nil {
		return metadata.SigningKey{}, err
	}
	private, certificates, err := certified.encode()
	return metadata.SigningKey{ServiceID: s.ID, KID: m.kid, Algorithm: m.algorithm, PrivatePEM: private, Certificates: certificates, Source: source}, err
}

// Rotation says how a service gets its next key.
type Rotation struct {
	// Algorithm of a new key; "" is that of the service.
	Algorithm string
	// Delay until it signs; nil is KeyOptions.PublishDelay.
	Delay *time.Duration
	// Material is a key that somebody brings; nil makes one.
	Material *Material
	// Also runs in the transaction that stores the key, such as the line in the audit
	// log; nil is nothing.
	Also func(*metadata.Tx) error
}

// maxDelay bounds Rotation.Delay.
const maxDelay = 90 * 24 * time.Hour

// Rotate gives a service ("" is our own) its next key. It is published at once,
// and signs after the delay. The key before it verifies until the last token
// that it signed is dead. The errors are NOT_FOUND, INVALID, and CONFLICT when
// the service's key comes from a file of the settings.
func (k *Keys) Rotate(ctx context.Context, service string, r Rotation) (KeyInfo, error) {
	if k.fileFor(service) != nil {
		return KeyInfo{}, oci.Errorf(oci.CodeConflict, "the key of this service comes from a file of the settings: put the new key into the file")
	}
	delay := k.options.PublishDelay
	if r.Delay != nil {
		delay = *r.Delay
	}
	if delay < 0 || delay > maxDelay {
		return KeyInfo{}, oci.Errorf(oci.CodeInvalid, "the delay is %s, it has to be from 0s to %s", delay, maxDelay)
	}
	s, err := k.service(ctx, service)
	if err != nil {
		return KeyInfo{}, err
	}
	m, source := r.Material, metadata.KeyImported
	if m == nil {
		source = metadata.KeyGenerated
		if r.Algorithm == "" {
			r.Algorithm = s.Algorithm
		}
		if m, err = generate(r.Algorithm); err != nil {
			return KeyInfo{}, err
		}
	}
	if _, err := k.row(s, m, source); err != nil {
		return KeyInfo{}, oci.Errorf(oci.CodeInvalid, "the key cannot be used: %w", err)
	}
	if err := k.add(ctx, s, m, source, delay, r.Also); err != nil {
		return KeyInfo{}, err
	}
	set, err := k.load(ctx)
	if err != nil {
		return KeyInfo{}, err
	}
	for _, one := range set.rings[s.ID] {
		if one.kid == m.kid {
			return one.info(k.clock(), set.rings[s.ID]), nil
		}
	}
	return KeyInfo{}, oci.Errorf(oci.CodeConflict, "the new key has been removed again: look at the list of keys")
}

// usable says why a key that somebody brings cannot sign.
func (m *Material) usable(now time.Time) error {
	for _, c := range m.chain {
		if now.After(c.NotAfter) {
			return fmt.Errorf("the certificate of %q has ended on %s", c.Subject, c.NotAfter.UTC().Format(time.DateOnly))
		}
	}
	return nil
}

// add publishes a key.
func (k *Keys) add(ctx context.Context, s metadata.Service, m *Material, source string, delay time.Duration, also func(*metadata.Tx) error) error {
	if _, err := k.ensure(ctx, s); err != nil { // so that there is one that signs meanwhile
		return err
	}
	row, err := k.row(s, m, source)
	if err != nil {
		return err
	}
	err = k.db.Update(ctx, func(tx *metadata.Tx) error {
		row.ActiveAt = tx.Now().Add(delay)
		if err := tx.AddSigningKey(ctx, row, k.keepFor(s)); err != nil || also == nil {
			return err
		}
		return also(tx)
	})
	if err != nil {
		return err
	}
	k.log.Info("new signing key is published", "service", s.Name, "kid", m.kid, "algorithm", m.algorithm, "source", source, "signs_in", delay)
	_, err = k.load(ctx)
	return err
}

// keepFor is KeepFor, and for our own keys, which sign refresh tokens too, longer.
func (k *Keys) keepFor(s metadata.Service) time.Duration {
	if s.ID == 0 {
		return k.keep
	}
	return KeepFor(s)
}

// KeepFor is how long a key of a service has to verify after its successor began to
// sign: the life of a token, and the time for which a replica may not know the
// successor.
func KeepFor(s metadata.Service) time.Duration { return s.TokenTTL + keyringAge + verifyLeeway }

// service finds a service; "" is our own.
func (k *Keys) service(ctx context.Context, name string) (s metadata.Service, err error) {
	if name == "" {
		return metadata.Service{Algorithm: k.options.Algorithm}, nil
	}
	err = k.db.View(ctx, func(tx *metadata.Tx) (err error) {
		s, err = tx.Service(ctx, name)
		return err
	})
	return s, err
}

// Retire removes a key at once: what it signed is refused here from then on, and
// by others once they read the bundle again. The errors are NOT_FOUND, and
// CONFLICT when no other key of the service signs. also, which may be nil, runs in
// the same transaction.
func (k *Keys) Retire(ctx context.Context, service, kid string, also func(*metadata.Tx) error) error {
	err := k.db.Update(ctx, func(tx *metadata.Tx) error {
		if err := tx.RetireSigningKey(ctx, service, kid); err != nil || also == nil {
			return err
		}
		return also(tx)
	})
	if err != nil {
		return err
	}
	k.log.Info("signing key is retired", "service", service, "kid", kid)
	_, err = k.load(ctx)
	return err
}

// Maintain removes the keys whose last token is dead, and replaces those whose
// certificate, made here, ends soon. It gives the number of keys changed. One
// replica at a time does it.
func (k *Keys) Maintain(ctx context.Context) (int, error) {
	var n int
	err := k.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		n, err = tx.DeleteExpiredKeys(ctx)
		return err
	})
	if err != nil {
		return n, err
	}
	set, err := k.load(ctx)
	if err != nil {
		return n, err
	}
	now := k.clock()
	for _, r := range set.rings {
		newest := r[0]
		if newest.row.Source != metadata.KeyGenerated || len(newest.chain) == 0 {
			continue
		}
		c := newest.chain[0]
		if now.Add(c.NotAfter.Sub(c.NotBefore)/10 + k.options.PublishDelay).Before(c.NotAfter) {
			continue
		}
		if _, err := k.Rotate(ctx, newest.row.Service, Rotation{}); err != nil {
			return n, fmt.Errorf("replacing the signing key of the service %q: %w", newest.row.Service, err)
		}
		n++
	}
	return n, nil
}

// KeyInfo is what may be shown of a key.
type KeyInfo struct {
	Service   string // "" is our own
	KID       string
	Algorithm string
	Source    string // metadata.KeyGenerated, KeyImported or KeyFile
	State     string // KeyPublished, KeySigning or KeyVerifying
	CreatedAt time.Time
	ActiveAt  time.Time  // it signs from then on
	ExpiresAt *time.Time // it verifies until then; nil while no key follows it
	NotAfter  time.Time  // end of its certificate
}

// The states of a key.
const (
	KeyPublished = "published" // in the bundle and the JWKS, and does not sign yet
	KeySigning   = "signing"
	KeyVerifying = "verifying" // signs no more; what it signed is good
)

func (k *key) info(now time.Time, r ring) KeyInfo {
	i := KeyInfo{Service: k.row.Service, KID: k.kid, Algorithm: k.algorithm, Source: k.row.Source, State: KeyVerifying,
		CreatedAt: k.row.CreatedAt, ActiveAt: k.row.ActiveAt, ExpiresAt: k.row.ExpiresAt}
	if len(k.chain) > 0 {
		i.NotAfter = k.chain[0].NotAfter
	}
	switch {
	case r.signing(now) == k:
		i.State = KeySigning
	case k.row.ActiveAt.After(now):
		i.State = KeyPublished
	}
	return i
}

// List gives what may be shown of the keys that are alive, by service (our own
// first), the newest first.
func (k *Keys) List(ctx context.Context) ([]KeyInfo, error) {
	set, err := k.load(ctx)
	if err != nil {
		return nil, err
	}
	now := k.clock()
	list := []KeyInfo{}
	for _, r := range set.rings {
		for _, one := range r {
			if !one.dead(now) {
				list = append(list, one.info(now, r))
			}
		}
	}
	slices.SortStableFunc(list, func(a, b KeyInfo) int { return strings.Compare(a.Service, b.Service) })
	return list, nil
}

// living gives the keys of a service, or with nil all keys, that are published
// and not dead, newest first.
func (k *Keys) living(ctx context.Context, service *metadata.Service) ([]*key, error) {
	set, err := k.fresh(ctx, keyringRetry)
	if err != nil {
		return nil, err
	}
	if service != nil && len(set.rings[service.ID]) == 0 {
		if set, err = k.ensure(ctx, *service); err != nil {
			return nil, err
		}
	}
	now := k.clock()
	var keys []*key
	for id, r := range set.rings {
		if service != nil && service.ID != id {
			continue
		}
		for _, one := range r {
			if !one.dead(now) {
				keys = append(keys, one)
			}
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no signing key can be read")
	}
	slices.SortFunc(keys, func(a, b *key) int { return int(b.row.ID - a.row.ID) })
	return keys, nil
}

// JWKS gives the public keys of a service, or with nil all of them: those that
// sign, those that will, and those whose tokens are alive.
func (k *Keys) JWKS(ctx context.Context, service *metadata.Service) (JWKS, error) {
	keys, err := k.living(ctx, service)
	if err != nil {
		return JWKS{}, err
	}
	set := JWKS{Keys: []JWK{}}
	seen := map[string]bool{}
	for _, one := range keys {
		if seen[one.kid] { // two services may have been given one key
			continue
		}
		seen[one.kid] = true
		j, err := publicJWK(one.private.Public())
		if err != nil {
			return JWKS{}, err
		}
		j.ID, j.Use, j.Algorithm = one.kid, "sig", one.algorithm
		set.Keys = append(set.Keys, j)
	}
	return set, nil
}

// Bundle gives the certificates of the same keys in PEM, as CNCF distribution
// reads them for rootcertbundle. Those that have ended are left out, and those of
// Ed25519 keys, with which docker-registry 2.8 would not start.
func (k *Keys) Bundle(ctx context.Context, service *metadata.Service) ([]byte, error) {
	keys, err := k.living(ctx, service)
	if err != nil {
		return nil, err
	}
	now := k.clock()
	var bundle []byte
	seen := map[string]bool{}
	for _, one := range keys {
		for _, c := range one.chain {
			if now.After(c.NotAfter) || c.PublicKeyAlgorithm == x509.Ed25519 || seen[string(c.Raw)] {
				continue
			}
			seen[string(c.Raw)] = true
			bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	if len(bundle) == 0 {
		return nil, oci.Errorf(oci.CodeNotFound, "no key has a certificate: our own key is Ed25519, which registries cannot use, and there is no service. Make one with 'berth service set'")
	}
	return bundle, nil
}

// watchedFile is a KeyFile and what became of it.
type watchedFile struct {
	KeyFile
	good     string           // what was read last and is usable
	material *Material        // from good
	done     map[int64]string // what each service has
}

// fileFor gives the file that brings the key of a service, or nil.
func (k *Keys) fileFor(service string) *watchedFile {
	var all *watchedFile
	for _, f := range k.files {
		switch {
		case f.Service == service:
			return f
		case f.Service == AllServices && service != "":
			all = f
		}
	}
	return all
}

// brought gives the key that a file brings for a service, or nil.
func (k *Keys) brought(service string) *Material {
	k.filesMu.Lock()
	defer k.filesMu.Unlock()
	if f := k.fileFor(service); f != nil {
		return f.material
	}
	return nil
}

// LoadFiles reads the files of the options and rotates where one has a new key.
// A file that cannot be used changes nothing, and is named in the error; the
// others are used all the same. Call it again to follow changes.
func (k *Keys) LoadFiles(ctx context.Context) error {
	if len(k.files) == 0 {
		return nil
	}
	var errs []error
	k.filesMu.Lock()
	for _, f := range k.files {
		if err := f.read(k.clock()); err != nil {
			errs = append(errs, fmt.Errorf("the key file %s: %w", f.Key, err))
		}
	}
	k.filesMu.Unlock()
	services := []metadata.Service{{Algorithm: k.options.Algorithm}}
	err := k.db.View(ctx, func(tx *metadata.Tx) error {
		for after := ""; ; {
			more, err := tx.Services(ctx, after, 100)
			if err != nil || len(more) == 0 {
				return err
			}
			services = append(services, more...)
			after = more[len(more)-1].Name
		}
	})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, s := range services {
		f := k.fileFor(s.Name)
		if f == nil || f.material == nil || f.done[s.ID] == f.good {
			continue
		}
		if err := k.follow(ctx, s, f.material); err != nil {
			errs = append(errs, fmt.Errorf("using the key file %s for the service %q: %w", f.Key, s.Name, err))
			continue
		}
		k.filesMu.Lock()
		f.done[s.ID] = f.good
		k.filesMu.Unlock()
	}
	return errors.Join(errs...)
}

// read takes a file's content when it is usable.
func (f *watchedFile) read(now time.Time) error {
	text, err := readKeyFile(f.Key)
	if err != nil {
		return err
	}
	texts := [][]byte{text}
	if f.Certificates != "" {
		if text, err = readKeyFile(f.Certificates); err != nil {
			return err
		}
		texts = append(texts, text)
	}
	m, err := ParseMaterial(texts...)
	if err != nil {
		return err
	}
	if err := m.usable(now); err != nil {
		return err
	}
	// The certificates count too: cert-manager may renew them and keep the key.
	f.good, f.material = m.kid+pemChain(m.chain), m
	return nil
}

func readKeyFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxKeyFile+1)) // ParseMaterial refuses the one byte too many
}

// follow makes the key of a file the newest one of a service.
func (k *Keys) follow(ctx context.Context, s metadata.Service, m *Material) error {
	set, err := k.ensure(ctx, s)
	if err != nil {
		return err
	}
	if len(set.rings[s.ID]) == 0 {
		return set.broken[s.ID]
	}
	newest := set.rings[s.ID][0]
	if newest.kid != m.kid {
		return k.add(ctx, s, m, metadata.KeyFile, k.options.PublishDelay, nil)
	}
	if after := pemChain(m.chain); after != "" && after != newest.row.Certificates {
		err := k.db.Update(ctx, func(tx *metadata.Tx) error {
			return tx.SetKeyCertificates(ctx, newest.row.ID, newest.row.Certificates, after)
		})
		if err != nil {
			return err
		}
		k.log.Info("new certificates for a signing key", "service", s.Name, "kid", m.kid)
		_, err = k.load(ctx)
		return err
	}
	return nil
}
