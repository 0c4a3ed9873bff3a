package s3

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7"

	"berth/storage"
)

const (
	idMin, idMax = 32, 128
	maxSession   = 1 << 20
)

// state is what a Session says. The bytes are in the parts, then in the pieces.
type state struct {
	ID     string   `json:"id"`
	Size   int64    `json:"n,omitempty"`
	Name   string   `json:"k,omitempty"` // of the multipart upload's object
	Upload string   `json:"u,omitempty"` // its upload id
	Parts  parts    `json:"p,omitempty"`
	Pieces []piece  `json:"t,omitempty"`
	Left   string   `json:"f,omitempty"` // a whole piece that the session has outgrown
	Stale  []string `json:"s,omitempty"` // pieces of the sessions before, to be removed
}

// part is an uploaded part; its number is its place in the list, from 1.
type part struct {
	etag string
	crc  uint32 // CRC-32C
}

// piece is an object that holds some bytes of a session: all of a small one, or
// what is too little for a part.
type piece struct {
	Name  string `json:"k"`
	Size  int64  `json:"n"`
	CRC   uint32 `json:"c"`
	Whole bool   `json:"w,omitempty"` // it is the session's first: Commit may make it the object
}

// parts packs its entries: 10,000 of them have to fit into a session.
type parts []part

// MarshalJSON writes 20 bytes for each part, in base64, or a list if an ETag is
// not 32 hexadecimal digits.
func (p parts) MarshalJSON() ([]byte, error) {
	packed := make([]byte, 0, 20*len(p))
	for _, part := range p {
		etag, err := hex.DecodeString(part.etag)
		if err != nil || len(etag) != 16 || part.etag != strings.ToLower(part.etag) {
			return p.marshalList()
		}
		packed = binary.BigEndian.AppendUint32(append(packed, etag...), part.crc)
	}
	return json.Marshal(packed)
}

type listedPart struct {
	ETag string `json:"e"`
	CRC  uint32 `json:"c"`
}

func (p parts) marshalList() ([]byte, error) {
	list := make([]listedPart, len(p))
	for i, part := range p {
		list[i] = listedPart{part.etag, part.crc}
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads both forms.
func (p *parts) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '[' {
		var list []listedPart
		if err := json.Unmarshal(text, &list); err != nil {
			return err
		}
		*p = make(parts, len(list))
		for i, l := range list {
			(*p)[i] = part{etag: l.ETag, crc: l.CRC}
		}
		return nil
	}
	var packed []byte
	if err := json.Unmarshal(text, &packed); err != nil {
		return err
	}
	if len(packed)%20 != 0 {
		return fmt.Errorf("%d bytes are no list of parts", len(packed))
	}
	*p = make(parts, 0, len(packed)/20)
	for ; len(packed) > 0; packed = packed[20:] {
		*p = append(*p, part{hex.EncodeToString(packed[:16]), binary.BigEndian.Uint32(packed[16:])})
	}
	return nil
}

func (st state) session() (storage.Session, error) {
	text, err := json.Marshal(st)
	if err != nil {
		return "", err
	}
	if len(text) > maxSession {
		return "", fmt.Errorf("the session has %d bytes, more than %d", len(text), maxSession)
	}
	return storage.Session(text), nil
}

func parseSession(session storage.Session) (state, error) {
	var st state
	if err := json.Unmarshal([]byte(session), &st); err != nil {
		return state{}, fmt.Errorf("%w: it was not made by an S3 store", storage.ErrSession)
	}
	if !st.valid() {
		return state{}, fmt.Errorf("%w: its text is damaged", storage.ErrSession)
	}
	return st, nil
}

func (st state) valid() bool {
	if !validID(st.ID) || st.Size < 0 || len(st.Parts) > maxParts {
		return false
	}
	if (st.Upload == "") != (st.Name == "") || st.Upload == "" && len(st.Parts) > 0 {
		return false
	}
	left := st.Size
	for _, p := range st.Pieces {
		if p.Size <= 0 || p.Size > left || !validName(p.Name) {
			return false
		}
		left -= p.Size
	}
	if left > 0 && len(st.Parts) == 0 || left == 0 && len(st.Parts) > 0 {
		return false
	}
	for _, name := range append([]string{st.Name, st.Left}, st.Stale...) {
		if name != "" && !validName(name) {
			return false
		}
	}
	return true
}

func validID(id string) bool {
	return len(id) >= idMin && len(id) <= idMax && strings.Trim(id, "0123456789abcdef") == ""
}

func validName(name string) bool {
	return name != "" && len(name) <= 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// newName makes the part of a key that tells a session's objects apart. Each
// Append makes its own, so that two of them never write to the same object.
func newName() string { return strings.ToLower(rand.Text()[:16]) }

// key is the key of one of the session's objects.
func (st state) key(name string) string { return st.ID + "-" + name }

func (st state) keys(names []string) []string {
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = st.key(name)
	}
	return keys
}

// validKey reports whether a store of this kind makes such keys.
func validKey(key string) bool {
	id, name, ok := strings.Cut(key, "-")
	return ok && validID(id) && validName(name)
}

// checksum is a CRC-32C as S3 writes it.
func checksum(crc uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc))
}

// span is a number of bytes and their CRC-32C.
type span struct {
	size int64
	crc  uint32
}

// join gives the size and the CRC-32C of all spans one after the other.
func join(spans []span) (span, error) {
	var all span
	list := make([]minio.ObjectPart, 0, len(spans))
	for i, s := range spans {
		all.size += s.size
		list = append(list, minio.ObjectPart{PartNumber: i + 1, Size: s.size, ChecksumCRC32C: checksum(s.crc)})
	}
	if len(spans) == 0 {
		return all, nil
	}
	sum, err := minio.ChecksumFullObjectCRC32C.FullObjectChecksum(list)
	if err != nil {
		return all, err
	}
	all.crc = binary.BigEndian.Uint32(sum.Raw())
	return all, nil
}
