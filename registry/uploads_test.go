package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/storage"
	"berth/storage/mem"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
)

// TestPushWays pushes the same bytes in every way that the specification has,
// with both algorithms.
func TestPushWays(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		ways := []struct {
			name string
			push func(r *Registry, data []byte, d digest.Digest) (metadata.Blob, error)
		}{
			{"single POST", func(r *Registry, data []byte, d digest.Digest) (metadata.Blob, error) {
				return r.PutBlob(e.ctx, as(alice), repo, d, int64(len(data)), bytes.NewReader(data))
			}},
			{"single POST of unknown length", func(r *Registry, data []byte, d digest.Digest) (metadata.Blob, error) {
				return r.PutBlob(e.ctx, as(alice), repo, d, -1, bytes.NewReader(data))
			}},
			{"POST, PUT", func(r *Registry, data []byte, d digest.Digest) (metadata.Blob, error) {
				u, err := r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
				e.ok(err)
				return r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, int64(len(data)), bytes.NewReader(data))
			}},
			{"POST, PATCH, PUT", func(r *Registry, data []byte, d digest.Digest) (metadata.Blob, error) {
				u, err := r.StartUpload(e.ctx, as(alice), repo, d.Algorithm())
				e.ok(err)
				u, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, -1, -1, bytes.NewReader(data))
				e.ok(err)
				if u.Size != int64(len(data)) {
					e.Fatalf("%d bytes after PATCH", u.Size)
				}
				return r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil)
			}},
			{"POST, PATCH, PATCH, PUT with the rest", func(r *Registry, data []byte, d digest.Digest) (metadata.Blob, error) {
				u, err := r.StartUpload(e.ctx, as(alice), repo, d.Algorithm())
				e.ok(err)
				n := int64(len(data) / 3)
				for at := int64(0); at < 2*n; at += n {
					u, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, at, n, bytes.NewReader(data[at:at+n]))
					e.ok(err)
				}
				return r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, 2*n, int64(len(data))-2*n, bytes.NewReader(data[2*n:]))
			}},
			{"an algorithm announced for the first time at the end", func(r *Registry, data []byte, d digest.Digest) (metadata.Blob, error) {
				other := digest.SHA512
				if d.Algorithm() == other {
					other = digest.SHA256
				}
				u, err := r.StartUpload(e.ctx, as(alice), repo, other)
				e.ok(err)
				u, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(data))
				e.ok(err)
				return r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, -1, strings.NewReader(""))
			}},
		}
		seed := uint64(0)
		for _, w := range ways {
			for _, n := range []int{0, 1, 3, 16 << 10, 700_001} {
				for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
					seed++
					data := random(n, seed)
					d := a.FromBytes(data)
					b, err := w.push(e.r, data, d)
					if err != nil {
						t.Fatalf("%s, %d bytes, %s: %v", w.name, n, a, err)
					}
					if b.Digest != d || b.Size != int64(n) || !bytes.Equal(e.read(e.r, repo, d), data) {
						t.Errorf("%s, %d bytes, %s: %+v", w.name, n, a, b)
					}
				}
			}
		}
		if left := e.strings(`SELECT id FROM uploads`); len(left) > 0 {
			t.Errorf("uploads are left: %v", left)
		}
		e.settled()
	})
}

// TestStoreCalls pins what a push costs: bytes are read back in one case only,
// and a blob that is there already is not committed a second time.
func TestStoreCalls(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		data := random(5000, 1)
		put := func(r *Registry, a digest.Algorithm, d digest.Digest) {
			u, err := r.StartUpload(e.ctx, as(alice), repo, a)
			e.ok(err)
			_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, int64(len(data)), bytes.NewReader(data))
			e.ok(err)
		}
		patch := func(r *Registry, a digest.Algorithm, d digest.Digest) {
			u, err := r.StartUpload(e.ctx, as(alice), repo, a)
			e.ok(err)
			_, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(data))
			e.ok(err)
			_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil)
			e.ok(err)
		}
		tests := []struct {
			name string
			push func(*Registry, digest.Algorithm, digest.Digest)
			a, d digest.Algorithm
			want string
		}{
			{"sha256, POST PUT", put, digest.SHA256, digest.SHA256, "map[Append:1 Commit:1]"},
			{"the same again", put, digest.SHA256, digest.SHA256, "map[Abort:1 Append:1]"},
			{"sha512 not announced, POST PUT", put, digest.SHA256, digest.SHA512, "map[Append:1 Commit:1]"},
			{"sha512 announced, POST PATCH PUT", patch, digest.SHA512, digest.SHA512, "map[Append:1 Commit:1]"},
			{"sha512 not announced, POST PATCH PUT", patch, digest.SHA256, digest.SHA512, "map[Append:1 Commit:1 OpenSession:1]"},
		}
		for i, tt := range tests {
			if tt.name != "the same again" {
				data = random(5000, uint64(100+i))
			}
			f := storagetest.Faulty(e.store())
			tt.push(New(e.openDB(), f, e.o), tt.a, tt.d.FromBytes(data))
			got := map[string]int{}
			for _, op := range []string{"Open", "Stat", "Append", "OpenSession", "Commit", "Abort", "Delete", "Walk"} {
				if n := f.Calls(op); n > 0 {
					got[op] = n
				}
			}
			if fmt.Sprint(got) != tt.want {
				t.Errorf("%s: %v, want %s", tt.name, got, tt.want)
			}
			e.read(e.r, repo, tt.d.FromBytes(data))
		}
		e.settled()
	})
}

// TestReplicas alternates chunks between two registries.
func TestReplicas(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		two := []*Registry{e.r, e.replica()}
		for _, c := range []struct{ chunk, count int }{{1, 50}, {64 << 10, 20}, {5<<20 + 1, 3}} {
			for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				data := random(c.chunk*c.count+c.chunk/2, uint64(c.chunk))
				if a == digest.SHA512 {
					data = append(data, "sha512"...)
				}
				u, err := two[0].StartUpload(e.ctx, as(alice), repo, a)
				e.ok(err)
				i := 0
				for chunk := range slices.Chunk(data, c.chunk) {
					i++
					u, err = two[i%2].AppendUpload(e.ctx, as(alice), repo, u.ID, u.Size, int64(len(chunk)), bytes.NewReader(chunk))
					e.ok(err)
					status, err := two[(i+1)%2].UploadStatus(e.ctx, as(alice), repo, u.ID)
					e.ok(err)
					if status != u {
						t.Fatalf("one replica says %+v, the other %+v", u, status)
					}
				}
				d := a.FromBytes(data)
				_, err = two[(i+1)%2].CommitUpload(e.ctx, as(alice), repo, u.ID, d, u.Size, 0, nil)
				e.ok(err)
				if !bytes.Equal(e.read(two[i%2], repo, d), data) {
					t.Errorf("chunks of %d bytes, %s: other bytes", c.chunk, a)
				}
			}
		}
		e.settled()
	})
}

// TestResume breaks a body off and goes on at the other replica.
func TestResume(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		reset := errors.New("connection reset by peer")
		other := e.replica()
		data := random(3_000_000, 7)
		d := digest.FromBytes(data)
		for _, n := range []int{0, 1, 100_000, 2_999_999} {
			u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			u, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, int64(len(data)),
				io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(reset)))
			e.is(err, oci.ErrBlobUploadInvalid, "body-incomplete")
			var source *storage.SourceError
			if !errors.As(err, &source) || !errors.Is(err, reset) {
				t.Fatalf("%v hides its cause", err)
			}
			if u.Size != int64(n) {
				t.Fatalf("%d bytes kept of %d", u.Size, n)
			}
			// The client thinks that all had come, and is told the truth.
			_, err = other.AppendUpload(e.ctx, as(alice), repo, u.ID, int64(len(data)), -1, strings.NewReader("more"))
			e.is(err, oci.ErrRangeInvalid, "upload-offset")
			var re *RangeError
			if !errors.As(err, &re) || re.Upload.Size != int64(n) || re.Upload.ID != u.ID {
				t.Fatalf("%v says %+v", err, re)
			}
			_, err = other.CommitUpload(e.ctx, as(alice), repo, u.ID, d, re.Upload.Size, int64(len(data)-n), bytes.NewReader(data[n:]))
			e.ok(err)
			e.read(e.r, repo, d)
			e.ok(e.r.DeleteBlob(e.ctx, as(alice), repo, d))
		}

		// The request's context ends: the same, as soon as the reader comes back.
		u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.ok(err)
		ctx, cancel := context.WithCancel(e.ctx)
		u, err = e.r.AppendUpload(ctx, as(alice), repo, u.ID, 0, -1, io.MultiReader(bytes.NewReader(data[:1000]), readerFunc(func(p []byte) (int, error) {
			cancel()
			return copy(p, data[1000:1010]), nil
		}), bytes.NewReader(data[1010:])))
		if !errors.Is(err, context.Canceled) || u.Size < 1010 || u.Size == int64(len(data)) {
			t.Fatalf("%+v, %v", u, err)
		}
		_, err = other.CommitUpload(e.ctx, as(alice), repo, u.ID, d, u.Size, -1, bytes.NewReader(data[u.Size:]))
		e.ok(err)
		e.settled()
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestUploadErrors(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		r := e.r
		data := random(1000, 1)
		d := digest.FromBytes(data)
		start := func(chunks ...[]byte) Upload {
			u, err := r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			for _, c := range chunks {
				u, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, -1, -1, bytes.NewReader(c))
				e.ok(err)
			}
			return u
		}
		size := func(id string, want int64) {
			t.Helper()
			u, err := r.UploadStatus(e.ctx, as(alice), repo, id)
			e.ok(err)
			if u.Size != want {
				t.Errorf("the upload has %d bytes, want %d", u.Size, want)
			}
		}

		u := start(data[:100])
		for _, c := range []struct{ principal, repo, id string }{
			{bob, repo, u.ID}, {"", repo, u.ID}, {alice, "team/other", u.ID}, {alice, repo, strings.Repeat("0", 32)}, {alice, repo, ""}, {alice, repo, "../.."},
		} {
			_, err := r.UploadStatus(e.ctx, as(c.principal), c.repo, c.id)
			e.is(err, oci.ErrBlobUploadUnknown)
			_, err = r.AppendUpload(e.ctx, as(c.principal), c.repo, c.id, -1, -1, strings.NewReader("x"))
			e.is(err, oci.ErrBlobUploadUnknown)
			_, err = r.CommitUpload(e.ctx, as(c.principal), c.repo, c.id, d, -1, -1, strings.NewReader("x"))
			e.is(err, oci.ErrBlobUploadUnknown)
			e.is(r.CancelUpload(e.ctx, as(c.principal), c.repo, c.id), oci.ErrBlobUploadUnknown)
		}
		size(u.ID, 100)

		// Chunks out of order change nothing.
		for _, at := range []int64{0, 99, 101, 1 << 50} {
			got, err := r.AppendUpload(e.ctx, as(alice), repo, u.ID, at, 10, bytes.NewReader(data[:10]))
			e.is(err, oci.ErrRangeInvalid, "upload-offset")
			if got.Size != 100 {
				t.Errorf("beside the error: %+v", got)
			}
			_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, at, 10, bytes.NewReader(data[:10]))
			e.is(err, oci.ErrRangeInvalid, "upload-offset")
			_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, at, 0, nil)
			e.is(err, oci.ErrRangeInvalid, "upload-offset")
		}
		size(u.ID, 100)

		// A body of another length than announced is kept as it is, and not committed.
		_, err := r.AppendUpload(e.ctx, as(alice), repo, u.ID, 100, 50, bytes.NewReader(data[100:120]))
		e.is(err, &oci.Error{Code: oci.CodeSizeInvalid}, "content-length")
		size(u.ID, 120)
		_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, 120, 10, bytes.NewReader(data[120:]))
		e.is(err, &oci.Error{Code: oci.CodeSizeInvalid}, "content-length")
		size(u.ID, 1000)
		_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, 1000, 0, nil)
		e.ok(err)

		// The answer got lost, and the client closes once more.
		for _, who := range []string{alice, bob} {
			b, err := r.CommitUpload(e.ctx, as(who), repo, u.ID, d, 1000, 0, nil)
			e.ok(err)
			if b.Digest != d {
				t.Errorf("%+v", b)
			}
		}
		_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, digest.FromString("other"), -1, 0, nil)
		e.is(err, oci.ErrBlobUploadUnknown)
		_, err = r.CommitUpload(e.ctx, as(alice), "team/other", u.ID, d, -1, 0, nil)
		e.is(err, oci.ErrBlobUploadUnknown)

		// Another digest: nothing stays.
		before := e.keys()
		for _, wrong := range []digest.Digest{digest.FromString("wrong"), digest.SHA512.FromString("wrong")} {
			u = start([]byte("not "), []byte("it"))
			_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, wrong, -1, 1, strings.NewReader("!"))
			e.is(err, oci.ErrDigestInvalid, "digest-mismatch")
			for _, s := range []string{wrong.String(), wrong.Algorithm().FromString("not it!").String()} {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not name %s", err, s)
				}
			}
			_, err = r.UploadStatus(e.ctx, as(alice), repo, u.ID)
			e.is(err, oci.ErrBlobUploadUnknown)
			_, err = r.PutBlob(e.ctx, as(alice), repo, wrong, 7, strings.NewReader("not it!"))
			e.is(err, oci.ErrDigestInvalid, "digest-mismatch")
		}
		_, err = r.PutBlob(e.ctx, as(alice), repo, digest.FromString("abc"), 4, strings.NewReader("abc"))
		e.is(err, &oci.Error{Code: oci.CodeSizeInvalid}, "content-length")
		_, err = r.PutBlob(e.ctx, as(alice), repo, digest.FromString("abc"), 3, io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(io.ErrUnexpectedEOF)))
		e.is(err, oci.ErrBlobUploadInvalid, "body-incomplete")

		// Cancelled.
		u = start(data[:10], data[10:20])
		e.ok(r.CancelUpload(e.ctx, as(alice), repo, u.ID))
		e.is(r.CancelUpload(e.ctx, as(alice), repo, u.ID), oci.ErrBlobUploadUnknown)
		_, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, 20, -1, bytes.NewReader(data))
		e.is(err, oci.ErrBlobUploadUnknown)

		if after := e.keys(); !slices.Equal(before, after) {
			t.Errorf("failed uploads leave something: %v, before %v", after, before)
		}
		if left := e.strings(`SELECT id FROM uploads`); len(left) > 0 {
			t.Errorf("uploads are left: %v", left)
		}
		e.settled()
	})
}

// TestChunkIsSentAgain: a client whose connection broke sends its chunk again while the first request is
// still storing it. The second is told how far the upload is, and that it can go on from there is true.
func TestChunkIsSentAgain(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		chunk, rest := bytes.Repeat([]byte("chunk"), 1000), []byte("and the rest")
		d := digest.FromBytes(append(slices.Clone(chunk), rest...))
		for _, at := range []int64{0, -1} {
			u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			body, feed := io.Pipe()
			first := make(chan error, 1)
			go func() {
				_, err := e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, at, int64(len(chunk)), body)
				first <- err
			}()
			if _, err := feed.Write(chunk); err != nil { // it is being written now
				t.Fatal(err)
			}
			second := make(chan error, 1)
			go func() {
				_, err := e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, at, int64(len(chunk)), bytes.NewReader(chunk))
				second <- err
			}()
			for _, waiting := e.r.writing(u.ID); waiting == 0; _, waiting = e.r.writing(u.ID) {
				time.Sleep(time.Millisecond)
			}
			feed.Close()
			e.ok(<-first)
			var out *RangeError
			if err := <-second; !errors.As(err, &out) || out.Upload.Size != int64(len(chunk)) {
				t.Fatalf("the chunk again at %d: %v, want a RangeError with %d bytes", at, err, len(chunk))
			}
			_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, out.Upload.Size, int64(len(rest)), bytes.NewReader(rest))
			e.ok(err)
			_, err = e.r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil)
			e.ok(err)
			if n, _ := e.r.writing(u.ID); n != 0 {
				t.Errorf("%d requests are left", n)
			}
		}
	})
}

// stuck is a body whose client has fallen silent, on a connection that is dead.
type stuck struct {
	io.Reader
	feed *io.PipeWriter
}

func newStuck(said []byte) (s stuck, silent <-chan struct{}) {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		_, _ = w.Write(said)
		close(done)
	}()
	return stuck{r, w}, done
}

func (s stuck) Interrupt() { s.feed.CloseWithError(errors.New("interrupted")) }

// TestSilentClientIsInterrupted: a client whose connection died goes on in a new one at once, from what had come in the
// old one. Another principal ends nothing, and neither does a request that only closes the upload.
func TestSilentClientIsInterrupted(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		all := random(9000, 7)
		d := digest.FromBytes(all)
		u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.ok(err)
		body, silent := newStuck(all[:5000])
		first := make(chan error, 1)
		go func() {
			_, err := e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, int64(len(all)), body)
			first <- err
		}()
		<-silent
		stranger, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
		defer cancel()
		if _, err := e.r.AppendUpload(stranger, as("mallory"), repo, u.ID, 0, -1, bytes.NewReader(all)); !errors.Is(err, oci.ErrBlobUploadUnknown) && stranger.Err() == nil {
			t.Errorf("another principal's request: %v", err)
		}
		closing, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
		defer cancel()
		if _, err := e.r.CommitUpload(closing, as(alice), repo, u.ID, d, -1, 0, bytes.NewReader(nil)); err == nil {
			t.Error("the upload is closed beside a request that writes")
		}
		select {
		case err := <-first:
			t.Fatalf("the request has ended: %v", err)
		default:
		}
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, int64(len(all)), bytes.NewReader(all))
		var out *RangeError
		if !errors.As(err, &out) || out.Upload.Size != 5000 {
			t.Fatalf("from the beginning again: %v, want a RangeError with 5000 bytes", err)
		}
		if err := <-first; !errors.Is(err, oci.ErrBlobUploadInvalid) {
			t.Errorf("the silent request ends with %v", err)
		}
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 5000, 4000, bytes.NewReader(all[5000:]))
		e.ok(err)
		_, err = e.r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil)
		e.ok(err)
		e.read(e.r, repo, d)
	})
}

// writing is the number of requests that write to an upload or want to, and of those among them that wait.
func (r *Registry) writing(id string) (all, waiting int) {
	r.turns.mu.Lock()
	defer r.turns.mu.Unlock()
	if u := r.turns.byID[id]; u != nil {
		return u.users, u.waiting
	}
	return 0, 0
}

// TestConcurrentPatches races many requests on one upload. What is committed
// is what those sent that were told so, in the order of their offsets.
func TestConcurrentPatches(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.raced = true
		two := []*Registry{e.r, e.replica()}
		committed := 0
		for round := range 6 {
			u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			type part struct {
				end  int64
				body []byte
			}
			var mu sync.Mutex
			var parts []part
			var wg sync.WaitGroup
			for i := range 8 {
				body := random(1000+round*100_000+i, uint64(round*100+i))
				wg.Go(func() {
					got, err := two[i%2].AppendUpload(e.ctx, as(alice), repo, u.ID, -1, int64(len(body)), iotest.HalfReader(bytes.NewReader(body)))
					switch {
					case err == nil:
						mu.Lock()
						parts = append(parts, part{got.Size, body})
						mu.Unlock()
					case errors.Is(err, oci.ErrRangeInvalid), errors.Is(err, oci.ErrBlobUploadInvalid):
					default:
						t.Errorf("PATCH: %v", err)
					}
				})
			}
			wg.Wait()
			if len(parts) == 0 {
				t.Error("nobody got through")
			}
			slices.SortFunc(parts, func(a, b part) int { return int(a.end - b.end) })
			var want []byte
			for _, p := range parts {
				want = append(want, p.body...)
				if int64(len(want)) != p.end {
					t.Fatalf("a PATCH was told %d bytes, it should be %d", p.end, len(want))
				}
			}
			d := digest.FromBytes(want)
			_, err = e.r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, int64(len(want)), 0, nil)
			if err == nil {
				committed++
				e.read(e.r, repo, d)
			} else {
				e.is(err, oci.ErrBlobUploadInvalid)
			}
		}
		// A directory has one place for an upload's bytes, and may lose all of them to the
		// race; it has to notice, as above.
		if _, memory := e.store().(*mem.Store); memory && committed == 0 {
			t.Error("no upload survived the race")
		}
		t.Logf("%d of 6 uploads survived 8 requests at once", committed)
		e.settled()
	})
}

// TestCloseDuringPatch closes an upload while another request writes to it.
func TestCloseDuringPatch(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.raced = true
		two := []*Registry{e.r, e.replica()}
		head, tail := random(500_000, 1), random(700_000, 2)
		d := digest.FromBytes(head)
		u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.ok(err)
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(head))
		e.ok(err)
		pr, pw := io.Pipe()
		patched := make(chan error)
		go func() {
			_, err := two[0].AppendUpload(e.ctx, as(alice), repo, u.ID, int64(len(head)), -1, pr)
			patched <- err
		}()
		_, err = pw.Write(tail[:400_000])
		e.ok(err)
		b, closeErr := two[1].CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil)
		_, err = pw.Write(tail[400_000:])
		e.ok(err)
		pw.Close()
		patchErr := <-patched
		switch {
		case closeErr == nil:
			if patchErr == nil || b.Size != int64(len(head)) {
				t.Errorf("closed with %d bytes, and the PATCH says %v", b.Size, patchErr)
			}
		case !errors.Is(closeErr, oci.ErrBlobUploadInvalid) && !errors.Is(closeErr, oci.ErrRangeInvalid):
			t.Errorf("closing: %v", closeErr)
		}
		e.push(e.r, repo, head)
		e.read(e.r, repo, d)
		e.settled()
	})
}

// TestCloseTwiceAtOnce sends the same closing request to two replicas.
func TestCloseTwiceAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		two := []*Registry{e.r, e.replica()}
		for i := range 10 {
			data := random(20_000, uint64(i))
			d := digest.FromBytes(data)
			u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(data))
			e.ok(err)
			var wg sync.WaitGroup
			for _, r := range two {
				wg.Go(func() {
					if _, err := r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil); err != nil {
						t.Errorf("%v", err)
					}
				})
			}
			wg.Wait()
			e.read(e.r, repo, d)
		}
		e.settled()
	})
}

// TestSameBlobAtOnce: 64 clients push the same blob; all succeed and one
// object stays.
func TestSameBlobAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		two := []*Registry{e.r, e.replica()}
		data := random(200_000, 3)
		d := digest.FromBytes(data)
		var ready, wg sync.WaitGroup
		var failed atomic.Int64
		ready.Add(64)
		for i := range 64 {
			wg.Go(func() {
				r, name := two[i%2], fmt.Sprintf("team/app-%d", i%8)
				u, err := r.StartUpload(e.ctx, as(alice), name, digest.SHA256)
				ready.Done()
				ready.Wait()
				if err == nil {
					_, err = r.AppendUpload(e.ctx, as(alice), name, u.ID, 0, -1, bytes.NewReader(data))
				}
				if err == nil {
					_, err = r.CommitUpload(e.ctx, as(alice), name, u.ID, d, -1, 0, nil)
				}
				if err != nil {
					failed.Add(1)
					t.Errorf("client %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if keys := e.keys(); len(keys) != 1 {
			t.Errorf("%d objects are stored", len(keys))
		}
		for i := range 8 {
			e.read(e.r, fmt.Sprintf("team/app-%d", i), d)
		}
		t.Logf("64 clients: %d successes, %d objects", 64-failed.Load(), len(e.keys()))
		e.settled()
	})
}

// TestExpire: uploads expire without progress, not while they go on.
func TestExpire(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.raced = true
		start := func() Upload {
			u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			u, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(random(100_000, 1)))
			e.ok(err)
			return u
		}
		stale, touched := start(), start()
		e.clock.Add(23 * time.Hour)
		fresh := start()
		_, err := e.r.AppendUpload(e.ctx, as(alice), repo, touched.ID, touched.Size, -1, strings.NewReader("x"))
		e.ok(err)
		e.clock.Add(2 * time.Hour)

		// A request is writing to the stale one.
		pr, pw := io.Pipe()
		patched := make(chan error)
		go func() {
			_, err := e.replica().AppendUpload(e.ctx, as(alice), repo, stale.ID, stale.Size, -1, pr)
			patched <- err
		}()
		_, err = pw.Write(random(300_000, 2))
		e.ok(err)
		n, err := collecting(e.r).ExpireUploads(e.ctx)
		e.ok(err)
		if n != 1 {
			t.Errorf("%d expired", n)
		}
		_, err = pw.Write(random(300_000, 3))
		e.ok(err)
		pw.Close()
		e.is(<-patched, oci.ErrBlobUploadUnknown)
		for _, u := range []Upload{touched, fresh} {
			_, err = e.r.UploadStatus(e.ctx, as(alice), repo, u.ID)
			e.ok(err)
		}
		if n, err := collecting(e.r).ExpireUploads(e.ctx); n != 0 || err != nil {
			t.Errorf("%d expired again, %v", n, err)
		}
		e.settled()
	})
}

// TestEmptyJobs: with nothing to do, jobs do nothing.
func TestEmptyJobs(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		d := e.push(e.r, repo, []byte("kept"))
		e.clock.Add(1000 * time.Hour)
		expired, err := collecting(e.r).ExpireUploads(e.ctx)
		e.ok(err)
		collected, err := collecting(e.r).CollectGarbage(e.ctx)
		e.ok(err)
		if expired != 0 || collected != 0 {
			t.Errorf("%d expired, %d collected", expired, collected)
		}
		e.read(e.r, repo, d)
	})
}
