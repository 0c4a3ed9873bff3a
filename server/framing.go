package server

import (
	"bytes"
	"net/http"
	"sync"
)

// A request with both Content-Length and Transfer-Encoding may be an attempt to smuggle a second one past
// a proxy that believes in the other of the two, and its connection has to be closed behind the answer (RFC 9112, 6.1). net/http
// believes in the chunks, as it should, and removes the Content-Length before anybody sees it.
// So the bytes of the connection are looked at.

// framing looks for a Content-Length in the header of a connection's next request. It says that there is none
// only when it is sure: it has to have seen the header from its first byte. Read and handler may be two
// goroutines, for net/http reads a byte ahead.
type framing struct {
	mu       sync.Mutex
	inHeader bool // between two requests, or in the header of one
	begun    bool // a byte has come meanwhile
	clean    bool // and what came before ended with an empty line
	found    bool // there is a Content-Length
	matched  int  // bytes of lengthField
	tail     [4]byte
}

// lengthField is what is looked for, without regard to case. Before the colon there is no space, net/http
// refuses one; and a line of a body that looks so costs a connection and nothing else.
const lengthField = "\ncontent-length:"

// read notes what has come.
func (f *framing) read(p []byte) {
	if len(p) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inHeader {
		f.begun = true
		f.look(p)
	}
	if n := len(p); n < len(f.tail) {
		copy(f.tail[:], f.tail[n:])
		copy(f.tail[len(f.tail)-n:], p)
	} else {
		copy(f.tail[:], p[n-len(f.tail):])
	}
}

// look goes on with the search.
func (f *framing) look(p []byte) {
	for len(p) > 0 && !f.found {
		if f.matched == 0 {
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				return
			}
			f.matched, p = 1, p[i+1:]
			continue
		}
		b := p[0]
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		if b != lengthField[f.matched] {
			f.matched = 0 // and b may be the next line's beginning
			continue
		}
		f.matched, p = f.matched+1, p[1:]
		f.found = f.matched == len(lengthField)
	}
}

// end says that a request has ended. What comes next is the header of another one, if nothing of that
// has come already: net/http may have read more than the request. When all that came ends with an
// empty line, as requests without a body do and chunked ones, then it has read either nothing of
// the next one, or all of its header; and then no byte will come before its handler.
func (f *framing) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clean = f.tail == [4]byte{'\r', '\n', '\r', '\n'} || f.tail == [4]byte{}
	f.inHeader, f.begun, f.found, f.matched = true, false, false, 0
}

// begin says that a request's header has ended, and whether it surely had no Content-Length.
func (f *framing) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inHeader = false
	return f.clean && f.begun && !f.found
}

// endConnection has net/http close the connection behind the answer when the request may have had two
// lengths, and behind each of HTTP/1.0, whose Transfer-Encoding net/http ignores. It gives what is to be called at the end.
func endConnection(w http.ResponseWriter, r *http.Request) (end func()) {
	if r.ProtoMajor != 1 {
		return func() {}
	}
	sure := false
	end = func() {}
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		sure = c.framing.begin()
		end = c.framing.end
	}
	if r.ProtoMinor == 0 || len(r.TransferEncoding) > 0 && !sure {
		w.Header().Set("Connection", "close")
	}
	return end
}
