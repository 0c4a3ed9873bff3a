// Package fs keeps objects as files of a directory: key "ab/abcdef…" is the
// file of that name, and "ab" the first two digits of the session's id. Start
// with [Store.Append] and [Store.Commit].
//
// A file is in its final place from its first byte on. What makes it an
// object is a row in the caller's database, so there is nothing to rename; docs/decisions/0001
// has the reasons. Commit takes away the file's write permission, and nothing writes to a
// file without it.
//
// A session that is continued after its first Append has a small file beside
// it, "abcdef….turn": who wrote last, and after whom. It keeps two requests that
// continue the same session from mixing their bytes.
package fs

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/storage"
)

const (
	modeOpen   = 0o640 // a file that a session may write to
	modeSealed = 0o440 // an object
	modeDir    = 0o750

	turnSuffix  = ".turn"
	asideSuffix = ".new" // of a turn file that is being made
	idMin       = 32
	idMax       = 128

	// Dirty pages are sent to the disk as they come, in steps of this many bytes: the
	// fsync at the end then has nothing left to wait for.
	writebackStep = 8 << 20

	// lockWait is how long a request waits for another one that writes to its session.
	lockWait = 2 * time.Second
)

// Options of a Store; the zero value works.
type Options struct {
	// Budget is the memory for buffers, shared with other stores. Nil: one of its own,
	// of the default size.
	Budget *storage.Budget

	// Shared says that several machines mount the directory. Every Append is then made
	// durable, so that any of them can continue it. Otherwise a session ends with the
	// boot of the machine in which its bytes were written, as they may not all have
	// reached the disk.
	Shared bool

	// MustExist makes no directory: a missing one is an error, which is fs.ErrNotExist.
	MustExist bool
}

// Store is a directory. Its methods may be called concurrently, by several
// processes; it implements [storage.Store].
type Store struct {
	dir    string
	budget *storage.Budget
	boot   string // "" when it does not matter
	shared bool
	syncs  dirSyncs
}

var _ storage.Store = (*Store)(nil)

// New makes a store of a directory, which is created when it is not there.
// Nothing in it is read.
func New(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("the blob directory: %w", err)
	}
	if o.MustExist {
		_, err = os.Stat(dir)
	} else {
		err = makeDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("the blob directory: %w", err)
	}
	if o.Budget == nil {
		o.Budget = storage.NewBudget(0)
	}
	s := &Store{dir: dir, budget: o.Budget, shared: o.Shared}
	if !o.Shared {
		s.boot = bootID()
	}
	return s, nil
}

// state is what a Session says.
type state struct {
	ID   string `json:"id"`
	Size int64  `json:"n,omitempty"`
	Turn string `json:"t,omitempty"` // of the Append that made the session; "" for the first one
	Boot string `json:"b,omitempty"` // in which the bytes were written
}

func (st state) session() storage.Session {
	text, err := json.Marshal(st)
	if err != nil {
		panic(err) // strings and a number
	}
	return storage.Session(text)
}

func decode(session storage.Session) (state, error) {
	var st state
	if err := json.Unmarshal([]byte(session), &st); err != nil {
		return st, fmt.Errorf("%w: it was not made by a directory store", storage.ErrSession)
	}
	if !validID(st.ID) || st.Size < 0 || len(st.Turn) > 32 || strings.ContainsAny(st.Turn, " \n") {
		return st, fmt.Errorf("%w: its text is damaged", storage.ErrSession)
	}
	return st, nil
}

// parse decodes a session whose bytes are wanted.
func (s *Store) parse(session storage.Session) (state, error) {
	st, err := decode(session)
	if err != nil {
		return st, err
	}
	if s.boot != "" && st.Boot != "" && st.Boot != s.boot {
		return st, fmt.Errorf("%w: the machine was started again since, and the bytes may not have reached the disk", storage.ErrSession)
	}
	return st, nil
}

func validID(id string) bool {
	if len(id) < idMin || len(id) > idMax {
		return false
	}
	return strings.Trim(id, "0123456789abcdef") == ""
}

func keyOf(id string) string { return id[:2] + "/" + id }

// path is the file of a key. Only what keyOf makes is a key, so that no key
// leads out of the directory.
func (s *Store) path(key string) (string, error) {
	if len(key) < 3 || key[2] != '/' || !validID(key[3:]) || key[:2] != key[3:5] {
		return "", fmt.Errorf("%w: %q is not a key of this store", storage.ErrNotFound, key)
	}
	return filepath.Join(s.dir, key[:2], key[3:]), nil
}

func (s *Store) file(id string) string { return filepath.Join(s.dir, id[:2], id) }

// Begin implements [storage.Store].
func (s *Store) Begin(id string) storage.Session { return state{ID: id}.session() }

// Append implements [storage.Store]. Bytes go to the file as they come, and
// early to the disk.
func (s *Store) Append(ctx context.Context, session storage.Session, r io.Reader, tee io.Writer) (storage.Session, int64, error) {
	st, err := s.parse(session)
	if err != nil {
		return session, 0, err
	}
	if err := ctx.Err(); err != nil {
		return session, 0, err
	}
	f, turn, err := s.openToWrite(ctx, st)
	if err != nil {
		return session, 0, fmt.Errorf("continuing upload %s: %w", st.ID, err)
	}
	defer f.Close() // and with it the lock

	out := newOutput(f, st.Size)
	n, err := storage.Pump(ctx, r, tee, storage.NewWriteThrough(s.budget, out.write))
	out.close()
	var source *storage.SourceError
	failed := err != nil && !errors.As(err, &source)
	if !failed && s.shared {
		if serr := f.Sync(); serr != nil {
			failed, err = true, serr
		}
	}
	if failed {
		_ = f.Truncate(st.Size) // not needed for what follows, but a full disk is glad of it
		return session, 0, fmt.Errorf("writing upload %s: %w", st.ID, err)
	}
	if n == 0 {
		return session, 0, err
	}
	return state{ID: st.ID, Size: st.Size + n, Turn: turn, Boot: s.boot}.session(), n, err
}

// openToWrite opens the session's file, locked and as long as the session, and gives the
// turn under which it may be written now.
func (s *Store) openToWrite(ctx context.Context, st state) (*os.File, string, error) {
	name := s.file(st.ID)
	if st.Size == 0 {
		f, err := s.create(name)
		if err == nil {
			if err = lock(ctx, f, lockWait); err == nil {
				// Another request may have been here between the two calls.
				if _, terr := os.Lstat(name + turnSuffix); errors.Is(terr, iofs.ErrNotExist) {
					return f, "", nil
				}
				err = fmt.Errorf("%w: another request writes to it", storage.ErrSession)
			}
			f.Close()
			return nil, "", err
		}
		if !errors.Is(err, iofs.ErrExist) {
			return nil, "", err
		}
		// What an earlier attempt left, alive or dead.
	}
	f, err := openSession(name)
	if err != nil {
		return nil, "", err
	}
	turn, err := s.takeTurn(ctx, f, st)
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, turn, nil
}

// takeTurn locks the file, makes sure that the session's bytes in it are
// still those that the session's Append wrote, and makes it the caller's turn.
func (s *Store) takeTurn(ctx context.Context, f *os.File, st state) (string, error) {
	size, sealed, err := s.check(ctx, f, st)
	if err != nil {
		return "", err
	}
	if sealed {
		return "", fmt.Errorf("%w: it is committed", storage.ErrSession)
	}
	turn := rand.Text()
	if err := s.writeTurn(f.Name(), turn, turnName(st)); err != nil {
		return "", err
	}
	if size > st.Size {
		err = f.Truncate(st.Size)
	}
	if err == nil {
		_, err = f.Seek(st.Size, io.SeekStart)
	}
	return turn, err
}

// check locks the file and compares it with the session. Bytes beyond the
// session's are those of an Append that died or whose session was not stored.
func (s *Store) check(ctx context.Context, f *os.File, st state) (size int64, sealed bool, err error) {
	if err := lock(ctx, f, lockWait); err != nil {
		return 0, false, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	if info.Size() < st.Size {
		return 0, false, fmt.Errorf("%w: the file has %d bytes of its %d", storage.ErrSession, info.Size(), st.Size)
	}
	if err := checkTurn(f.Name(), turnName(st)); err != nil {
		return 0, false, err
	}
	return info.Size(), info.Mode().Perm()&0o200 == 0, nil
}

// Names of turns that have no random one: the empty session, and that of the
// first Append, which needs no turn file.
const (
	turnBegin = "begin"
	turnFirst = "first"
)

// turnName is the turn in which the session's bytes were written.
func turnName(st state) string {
	switch {
	case st.Size == 0:
		return turnBegin
	case st.Turn == "":
		return turnFirst
	}
	return st.Turn
}

// writeTurn notes whose turn it is, and whose it was when the bytes before
// it were written. The file is made aside and renamed, so that it is whole or as it was, also when the disk is full.
// The caller has the lock, so nobody else makes it.
func (s *Store) writeTurn(name, turn, after string) error {
	f, err := openFile(name+turnSuffix+asideSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, modeOpen)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%-32s %-32s\n", turn, after)
	if err == nil && s.shared {
		err = f.Sync() // for a session that outlives the boot
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name+turnSuffix)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // a full disk is glad of it; Delete removes it too
	}
	return err
}

// checkTurn accepts a session of the last turn, and the one that the last turn
// began with: it wrote only beyond that session's bytes. An empty file does not count: versions before the rename
// left it on a full disk, before they wrote anything else.
func checkTurn(name, mine string) error {
	last, after := turnFirst, turnBegin
	text, err := os.ReadFile(name + turnSuffix)
	switch fields := strings.Fields(string(text)); {
	case errors.Is(err, iofs.ErrNotExist), err == nil && len(text) == 0:
	case err != nil:
		return err
	case len(fields) != 2:
		return fmt.Errorf("%w: its turn file is damaged", storage.ErrSession)
	default:
		last, after = fields[0], fields[1]
	}
	if mine != last && mine != after {
		return fmt.Errorf("%w: another request has written to it", storage.ErrSession)
	}
	return nil
}

// create makes a new file, and its directory when that is new too.
func (s *Store) create(name string) (*os.File, error) {
	f, err := openFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, modeOpen)
	if errors.Is(err, iofs.ErrNotExist) {
		if err = os.Mkdir(filepath.Dir(name), modeDir); err != nil && !errors.Is(err, iofs.ErrExist) {
			return nil, err
		}
		f, err = openFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, modeOpen)
	}
	return f, err
}

// output writes to a file and hurries the pages to the disk, from a goroutine of its
// own, for sending them takes processor time.
type output struct {
	f        *os.File
	from, at int64         // from: what writeback has been started for
	idle     chan struct{} // has an element while no writeback runs
}

func newOutput(f *os.File, at int64) *output {
	o := &output{f: f, from: at, at: at, idle: make(chan struct{}, 1)}
	o.idle <- struct{}{}
	return o
}

func (o *output) write(p []byte) error {
	n, err := o.f.Write(p)
	o.at += int64(n)
	if err != nil || o.at-o.from < writebackStep {
		return err
	}
	select {
	case <-o.idle:
		from, length := o.from, o.at-o.from
		o.from = o.at
		go func() {
			writeback(o.f, from, length)
			o.idle <- struct{}{}
		}()
	default: // the next one takes these pages too
	}
	return nil
}

// close waits for the goroutine, and sends what is left: a Commit is likely to follow.
func (o *output) close() {
	<-o.idle
	if o.at > o.from {
		writeback(o.f, o.from, o.at-o.from)
	}
}

// Commit implements [storage.Store]: two fsyncs at once, of the file and of its directory, the
// latter shared with all commits that come at the same time.
func (s *Store) Commit(ctx context.Context, session storage.Session) (string, error) {
	st, err := s.parse(session)
	if err != nil {
		return "", err
	}
	if err := s.commit(ctx, st); err != nil {
		return "", fmt.Errorf("committing upload %s: %w", st.ID, err)
	}
	return keyOf(st.ID), nil
}

func (s *Store) commit(ctx context.Context, st state) error {
	name := s.file(st.ID)
	f, err := openSession(name)
	if st.Size == 0 && errors.Is(err, storage.ErrSession) {
		if f, err = s.create(name); errors.Is(err, iofs.ErrExist) {
			f, err = openSession(name) // made in between
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size, sealed, err := s.check(ctx, f, st)
	switch {
	case err != nil:
		return err
	case sealed && size > st.Size:
		return fmt.Errorf("%w: another request has committed it", storage.ErrSession)
	case !sealed && size > st.Size:
		if err := f.Truncate(st.Size); err != nil {
			return err
		}
	}
	// The entry is there since the first Append: neither has to wait for the other.
	entry := make(chan error, 1)
	go func() { entry <- s.syncs.sync(s.dir, filepath.Dir(name)) }()
	err = errors.Join(f.Sync(), <-entry)
	switch {
	case sealed:
	case err == nil:
		err = f.Chmod(modeSealed)
	default:
		// The kernel may have dropped the pages that it could not write; the next fsync would find nothing to do, and
		// succeed. So nothing may commit this file any more. Nobody has: it is not sealed, and we have the lock.
		_ = os.Remove(name)
	}
	return err
}

// Abort implements [storage.Store].
func (s *Store) Abort(ctx context.Context, session storage.Session) error {
	st, err := decode(session)
	if err != nil {
		return err
	}
	return s.Delete(ctx, keyOf(st.ID))
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	var errs []error
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		name, err := s.path(key)
		if err != nil {
			continue // nothing is stored under it
		}
		for _, name := range []string{name, name + turnSuffix, name + turnSuffix + asideSuffix} {
			if err := os.Remove(name); err != nil && !errors.Is(err, iofs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("deleting %s: %w", key, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Open implements [storage.Store].
func (s *Store) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name, err := s.path(key)
	if err != nil {
		return nil, err
	}
	f, err := openObject(name)
	if err != nil {
		return nil, notFound(key, err)
	}
	if err := seek(f, offset); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening %s: %w", key, err)
	}
	if length < 0 {
		return f, nil
	}
	return &section{f: f, r: io.LimitedReader{R: f, N: length}}, nil
}

func seek(f *os.File, offset int64) error {
	if offset == 0 {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if offset < 0 || offset > info.Size() {
		return fmt.Errorf("%w: offset %d of %d bytes", storage.ErrOutOfRange, offset, info.Size())
	}
	_, err = f.Seek(offset, io.SeekStart)
	return err
}

// section is a part of a file that io.Copy still sends without copying it
// through this process.
type section struct {
	f *os.File
	r io.LimitedReader
}

func (s *section) Read(p []byte) (int, error)         { return s.r.Read(p) }
func (s *section) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, &s.r) }
func (s *section) Close() error                       { return s.f.Close() }

// File gives the file, at the offset of what was not read yet, to who knows where the part ends: net/http sends
// a file itself (sendfile), and nothing that is wrapped around one.
func (s *section) File() *os.File { return s.f }

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if err := ctx.Err(); err != nil {
		return storage.Info{}, err
	}
	name, err := s.path(key)
	if err != nil {
		return storage.Info{}, err
	}
	info, err := os.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errNoFile
	}
	if err != nil {
		return storage.Info{}, notFound(key, err)
	}
	return storage.Info{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil
}

// errNoFile says that a directory, a link or the like is where an object belongs. Walk skips it too.
var errNoFile = fmt.Errorf("%w: what is there is not a file", iofs.ErrNotExist)

// openObject opens a regular file to read it.
func openObject(name string) (*os.File, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // asked first, since to open a pipe would wait for its writer
		return nil, errNoFile
	}
	return openFile(name, os.O_RDONLY, 0)
}

func notFound(key string, err error) error {
	if errors.Is(err, iofs.ErrNotExist) {
		return fmt.Errorf("%w: %s", storage.ErrNotFound, key)
	}
	return err
}

// OpenSession implements [storage.Store].
func (s *Store) OpenSession(ctx context.Context, session storage.Session) (io.ReadCloser, error) {
	st, err := s.parse(session)
	if err != nil {
		return nil, err
	}
	if st.Size == 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	f, err := openSession(s.file(st.ID))
	if err != nil {
		return nil, fmt.Errorf("reading upload %s: %w", st.ID, err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() < st.Size {
		err = fmt.Errorf("%w: the file has %d bytes of its %d", storage.ErrSession, info.Size(), st.Size)
	}
	if err == nil {
		err = checkTurn(f.Name(), turnName(st))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading upload %s: %w", st.ID, err)
	}
	return &section{f: f, r: io.LimitedReader{R: f, N: st.Size}}, nil
}

// Walk implements [storage.Store]. It reads directories in steps, so that
// the number of files does not matter.
func (s *Store) Walk(ctx context.Context) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		dirs, err := os.ReadDir(s.dir)
		if err != nil {
			yield(storage.Info{}, err)
			return
		}
		for _, d := range dirs {
			if len(d.Name()) != 2 || !d.IsDir() {
				continue
			}
			if !s.walkDir(ctx, d.Name(), yield) {
				return
			}
		}
	}
}

func (s *Store) walkDir(ctx context.Context, sub string, yield func(storage.Info, error) bool) bool {
	d, err := os.Open(filepath.Join(s.dir, sub))
	if err != nil {
		return yield(storage.Info{}, err)
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1000)
		for _, e := range entries {
			key := sub + "/" + e.Name()
			if _, err := s.path(key); err != nil || !e.Type().IsRegular() {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, iofs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(storage.Info{}, err)
				return false
			}
			if !yield(storage.Info{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil) {
				return false
			}
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			return yield(storage.Info{}, err)
		}
	}
}

// Ping implements [storage.Store]: it reads in the directory.
func (s *Store) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err == nil {
		if _, err = d.Readdirnames(1); err == io.EOF {
			err = nil // empty
		}
		err = errors.Join(err, d.Close())
	}
	if err != nil {
		return fmt.Errorf("the blob directory cannot be read: %w", err)
	}
	return nil
}

// Writable implements [storage.Store]: it writes and removes a small file.
func (s *Store) Writable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, ".ping-")
	if err != nil {
		return fmt.Errorf("the blob directory cannot be written to: %w", err)
	}
	_, err = f.WriteString("ping\n")
	err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	if err != nil {
		return fmt.Errorf("the blob directory cannot be written to: %w", err)
	}
	return nil
}

// openSession opens a session's file to write to it, or to read it when it is
// sealed already.
func openSession(name string) (*os.File, error) {
	f, err := openFile(name, os.O_RDWR, 0)
	if errors.Is(err, iofs.ErrPermission) {
		f, err = openFile(name, os.O_RDONLY, 0)
	}
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("%w: its file is gone", storage.ErrSession)
	}
	return f, err
}
