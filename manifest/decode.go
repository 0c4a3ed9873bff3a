package manifest

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"berth/oci"

	"github.com/go-json-experiment/json/jsontext"
)

// document is the body of a manifest, field by field. A nil list, config or
// subject was not in the body, or null.
type document struct {
	schemaVersion int64
	mediaType     string
	artifactType  string
	config        *Descriptor
	subject       *Descriptor
	layers        []Descriptor
	manifests     []Descriptor
	annotations   map[string]string
	nullManifests bool   // manifests is there and null, which is an empty list
	fsLayers      bool   // Docker schema 1 has them
	rawBlobs      []byte // the value of "blobs", meaningful in artifact manifests only
	descriptors   int    // counted so far
}

// The names that Parse reads. Any other spelling of them that encoding/json
// would take for the same (it ignores case) is refused.
var (
	documentFields   = []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "fsLayers", "blobs"}
	descriptorFields = []string{"mediaType", "digest", "size", "urls", "artifactType"}
)

// mediaTypeRE is RFC 6838 section 4.2, "type-name" "/" "subtype-name".
var mediaTypeRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`)

// parseContentType strips parameters, which the specification has registries
// ignore, and brings a known or generic type into its canonical spelling.
func parseContentType(s string) (string, error) {
	s, _, _ = strings.Cut(s, ";")
	s = strings.TrimSpace(s)
	if s == "" {
		return "", nil
	}
	if !mediaTypeRE.MatchString(s) {
		return "", refuse("content-type", "", "the Content-Type %.80q is not a media type", s)
	}
	if low := strings.ToLower(s); generic(low) || kinds[low] != kindUnknown {
		return low, nil
	}
	return s, nil
}

// decoder reads one JSON text token by token. jsontext refuses invalid UTF-8
// and repeated names by default; the rest is here.
type decoder struct {
	*jsontext.Decoder
	raw         []byte
	at          string // pointer to the text in the body, "" when it is the body
	descriptors int
	tokens      int
}

// pointer tells where in the body the decoder is.
func (d *decoder) pointer() string { return d.at + string(d.StackPointer()) }

func decode(raw []byte) (*document, error) {
	d := &decoder{Decoder: jsontext.NewDecoder(bytes.NewBuffer(raw)), raw: raw}
	if d.PeekKind() != '{' {
		// PeekKind keeps a syntax error for the next read.
		if _, err := d.token(); err != nil {
			return nil, err
		}
		return nil, refuse("not-an-object", "", "a manifest has to be a JSON object")
	}
	doc := &document{}
	err := d.object(documentFields, func(field string) error { return d.documentField(doc, field) })
	if err != nil {
		return nil, err
	}
	doc.descriptors = d.descriptors
	switch _, err := d.ReadToken(); {
	case err == nil, !errors.Is(err, io.EOF):
		return nil, refuse("trailing-data", "", "there is more than white space after the manifest's closing brace, at byte %d", d.InputOffset())
	}
	return doc, nil
}

func (d *decoder) documentField(doc *document, field string) (err error) {
	if field != "" && d.PeekKind() == 'n' {
		doc.nullManifests = doc.nullManifests || field == "manifests"
		return d.skip()
	}
	switch field {
	case "schemaVersion":
		doc.schemaVersion, err = d.integer()
	case "mediaType":
		doc.mediaType, err = d.mediaType()
	case "artifactType":
		doc.artifactType, err = d.mediaType()
	case "config":
		doc.config, err = d.descriptor()
	case "subject":
		doc.subject, err = d.descriptor()
	case "layers":
		doc.layers, err = d.descriptorList()
	case "manifests":
		doc.manifests, err = d.descriptorList()
	case "annotations":
		doc.annotations, err = d.annotations()
	case "fsLayers":
		doc.fsLayers = true
		err = d.skip()
	case "blobs":
		start := d.InputOffset()
		err = d.skip()
		doc.rawBlobs = bytes.TrimLeft(d.raw[start:d.InputOffset()], " \t\r\n:")
	default:
		err = d.skip()
	}
	return err
}

// decodeBlobs reads the value of an artifact manifest's blobs, which is a list
// of descriptors only when the media type says so. counted is the number of
// descriptors that the manifest has elsewhere.
func decodeBlobs(value []byte, counted int) ([]Descriptor, error) {
	d := &decoder{Decoder: jsontext.NewDecoder(bytes.NewBuffer(value)), raw: value, at: "/blobs", descriptors: counted}
	return d.descriptorList()
}

// object reads an object and calls read for each name, with "" for one that is
// not in fields. read consumes the value. A known field that is null counts as
// absent, as encoding/json has it: clients in Go write null for a list without elements, and
// those in other languages for every field without a value.
func (d *decoder) object(fields []string, read func(field string) error) error {
	if err := d.open('{', "an object"); err != nil {
		return err
	}
	for {
		t, err := d.token()
		if err != nil {
			return err
		}
		if t.Kind() == '}' {
			return nil
		}
		name := t.String()
		field := ""
		if slices.Contains(fields, name) {
			field = name
		} else if i := slices.IndexFunc(fields, func(f string) bool { return strings.EqualFold(f, name) }); i >= 0 {
			return refuse("field-case", d.pointer(),
				"the field %.40q is spelt %q: names are case-sensitive, but some clients would read it", name, fields[i])
		}
		if err := read(field); err != nil {
			return err
		}
	}
}

// list reads an array and calls read for each element.
func (d *decoder) list(read func() error) error {
	if err := d.open('[', "a list"); err != nil {
		return err
	}
	for {
		switch k := d.PeekKind(); k {
		case ']', 0:
			_, err := d.token()
			return err
		}
		if err := read(); err != nil {
			return err
		}
	}
}

func (d *decoder) descriptorList() ([]Descriptor, error) {
	ds := []Descriptor{}
	err := d.list(func() error {
		desc, err := d.descriptor()
		if err == nil {
			ds = append(ds, *desc)
		}
		return err
	})
	return ds, err
}

func (d *decoder) descriptor() (*Descriptor, error) {
	var desc Descriptor
	var sized bool
	err := d.object(descriptorFields, func(field string) (err error) {
		if field != "" && d.PeekKind() == 'n' {
			return d.skip()
		}
		switch field {
		case "mediaType":
			desc.MediaType, err = d.mediaType()
		case "artifactType":
			desc.ArtifactType, err = d.mediaType()
		case "digest":
			var s string
			if s, err = d.string(); err == nil {
				if desc.Digest, err = oci.ParseDigest(s); err != nil {
					return refuse("digest", d.pointer(), "%s", err.(*oci.Error).Message)
				}
			}
		case "size":
			sized = true
			if desc.Size, err = d.integer(); err == nil && desc.Size < 0 {
				return refuse("size-negative", d.pointer(), "the size %d is negative", desc.Size)
			}
		case "urls":
			err = d.list(func() error {
				u, err := d.string()
				if desc.URLs = append(desc.URLs, u); err == nil && len(desc.URLs) > MaxURLs {
					return refuse("too-many-urls", d.pointer(), "a descriptor has more than %d urls", MaxURLs)
				}
				return err
			})
		default:
			err = d.skip()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if desc.Digest == "" {
		return nil, refuse("digest-missing", d.pointer(), "a descriptor has to have a digest")
	}
	if !sized {
		return nil, refuse("size-missing", d.pointer(), "a descriptor has to have a size")
	}
	d.descriptors++
	if d.descriptors > MaxDescriptors {
		return nil, refuse("too-many-descriptors", d.pointer(),
			"the manifest has more than %d descriptors: split it into an index of indexes", MaxDescriptors)
	}
	return &desc, nil
}

func (d *decoder) annotations() (map[string]string, error) {
	if err := d.open('{', "an object"); err != nil {
		return nil, err
	}
	var m map[string]string
	for {
		t, err := d.token()
		if err != nil {
			return nil, err
		}
		if t.Kind() == '}' {
			return m, nil
		}
		name := t.String()
		if d.PeekKind() == 'n' {
			if err := d.skip(); err != nil {
				return nil, err
			}
			continue
		}
		value, err := d.string()
		if err != nil {
			return nil, err
		}
		if m == nil {
			m = make(map[string]string)
		}
		if m[name] = value; len(m) > MaxAnnotations {
			return nil, refuse("too-many-annotations", "/annotations", "the manifest has more than %d annotations: put large data in blobs", MaxAnnotations)
		}
	}
}

// mediaType reads a media type; "" counts as none, some encoders write it. Of
// the grammar only the length and the characters are enforced here: people push
// files with types like "text/plain; charset=utf-8". What the manifest itself may be called
// is in checkNames.
func (d *decoder) mediaType() (string, error) {
	s, err := d.string()
	if err != nil {
		return "", err
	}
	printable := !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	if len(s) > MaxMediaType || !printable {
		return "", refuse("media-type", d.pointer(),
			"%.80q is not a media type: use at most %d printable ASCII characters (RFC 6838)", s, MaxMediaType)
	}
	return s, nil
}

func (d *decoder) string() (string, error) {
	if k := d.PeekKind(); k != '"' {
		return "", d.wrongType(k, "a string")
	}
	t, err := d.token()
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

func (d *decoder) integer() (int64, error) {
	if k := d.PeekKind(); k != '0' {
		return 0, d.wrongType(k, "an integer")
	}
	t, err := d.token()
	if err != nil {
		return 0, err
	}
	// No fraction and no exponent: clients would disagree on them.
	n, err := strconv.ParseInt(t.String(), 10, 64)
	if err != nil {
		return 0, refuse("integer", d.pointer(), "%.40s is not an integer of 64 bits", t.String())
	}
	return n, nil
}

// open reads the beginning of an object or list.
func (d *decoder) open(kind jsontext.Kind, want string) error {
	if k := d.PeekKind(); k != kind {
		return d.wrongType(k, want)
	}
	_, err := d.token()
	return err
}

// wrongType refuses the next value. null has its own rule: as an element of a list it is neither
// absent nor empty.
func (d *decoder) wrongType(k jsontext.Kind, want string) error {
	if _, err := d.token(); err != nil {
		return err
	}
	at := d.pointer()
	if k == 'n' {
		return refuse("null", at, "%.120s is null: leave it out, or make it %s", at, want)
	}
	return refuse("type", at, "%.120s has to be %s", at, want)
}

// skip passes over a value of any kind, keeping the bounds.
func (d *decoder) skip() error {
	depth := d.StackDepth()
	for {
		if _, err := d.token(); err != nil {
			return err
		}
		if d.StackDepth() == depth {
			return nil
		}
	}
}

// token reads the next token, keeps the depth and names what is wrong.
func (d *decoder) token() (jsontext.Token, error) {
	t, err := d.ReadToken()
	if err == nil {
		if d.StackDepth() > MaxDepth {
			return t, refuse("depth", "", "the manifest is nested deeper than %d levels", MaxDepth)
		}
		if d.tokens++; d.tokens > MaxTokens {
			return t, refuse("too-many-values", "", "the manifest has more than %d names and values: put large data in blobs", MaxTokens)
		}
		return t, nil
	}
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &syntax):
		return t, refuse("duplicate-field", d.at+string(syntax.JSONPointer),
			"the name %.80q appears twice in one object, so that clients disagree on its value", syntax.JSONPointer.LastToken())
	case !utf8.Valid(d.raw):
		return t, refuse("utf-8", "", "the manifest is not valid UTF-8")
	case len(bytes.TrimSpace(d.raw)) == 0:
		return t, refuse("empty", "", "the body is empty: a manifest has to be a JSON object")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return t, refuse("truncated", "", "the JSON ends in the middle, after %d bytes", len(d.raw))
	}
	e := refuse("json", "", "the body is not valid JSON")
	if errors.As(err, &syntax) {
		e = refuse("json", "", "the body is not valid JSON at byte %d", syntax.ByteOffset)
	}
	return t, e.WithCause(err)
}
