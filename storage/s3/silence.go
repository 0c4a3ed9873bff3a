package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// errSilent ends a request to an S3 that neither takes nor gives bytes. It takes the place of the context's
// error that it makes: nobody has cancelled anything.
var errSilent = errors.New("S3 has neither taken nor sent anything in time")

// silence is a transport that ends requests, and the reading of their answers, when the other end
// is silent for too long. The connections that rest are closed then: they may be as dead.
type silence struct {
	base  *http.Transport
	bound time.Duration
}

type boundKey struct{}

// withBound lets S3 think for longer than the store's Timeout about requests with the context.
func withBound(ctx context.Context, bound time.Duration) context.Context {
	return context.WithValue(ctx, boundKey{}, bound)
}

// RoundTrip implements [http.RoundTripper].
func (t *silence) RoundTrip(req *http.Request) (*http.Response, error) {
	bound := t.bound
	if longer, ok := req.Context().Value(boundKey{}).(time.Duration); ok {
		bound = longer
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watched{bound: bound, cancel: cancel, timer: time.AfterFunc(bound, func() { cancel(errSilent) })}
	sent := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		sent.Body = sentBody{req.Body, w}
	}
	res, err := t.base.RoundTrip(sent)
	w.timer.Stop()
	if err != nil {
		if context.Cause(ctx) == errSilent {
			t.base.CloseIdleConnections()
			err = fmt.Errorf("%w (%s): %v", errSilent, bound, err)
		}
		cancel(nil)
		return nil, err
	}
	res.Body = &gotBody{body: res.Body, watched: w, idle: t.base, ctx: ctx}
	return res, nil
}

type watched struct {
	bound  time.Duration
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// sentBody takes each read of the body for a sign of life: the bytes before it were taken.
type sentBody struct {
	io.ReadCloser
	*watched
}

func (b sentBody) Read(p []byte) (int, error) {
	b.timer.Stop() // what the body itself waits for is not S3's
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(b.bound)
	return n, err
}

// gotBody waits for each piece of an answer; the time between the reads is the reader's.
type gotBody struct {
	body io.ReadCloser
	*watched
	idle *http.Transport
	ctx  context.Context
}

func (b *gotBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.bound)
	n, err := b.body.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errSilent {
		b.idle.CloseIdleConnections()
		err = fmt.Errorf("%w (%s): %v", errSilent, b.bound, err)
	}
	return n, err
}

func (b *gotBody) Close() error {
	err := b.body.Close()
	b.timer.Stop()
	b.cancel(nil)
	return err
}
