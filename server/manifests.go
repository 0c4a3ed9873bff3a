package server

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/mux"
	"github.com/opencontainers/go-digest"

	"berth/manifest"
	"berth/metadata"
	"berth/oci"
)

func (s *Server) getManifest(ex *exchange, r *http.Request) error {
	ref, err := oci.ParseReference(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	m, err := s.registry.Manifest(r.Context(), ex.repository, ref)
	if err != nil {
		return err
	}
	if s.manifestHeaders(ex, r, ref, m) {
		return nil
	}
	ex.WriteHeader(http.StatusOK)
	_, _ = ex.Write(m.Payload)
	return nil
}

func (s *Server) headManifest(ex *exchange, r *http.Request) error {
	ref, err := oci.ParseReference(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	m, err := s.registry.HeadManifest(r.Context(), ex.repository, ref)
	if err != nil {
		return err
	}
	if !s.manifestHeaders(ex, r, ref, m) {
		ex.WriteHeader(http.StatusOK)
	}
	return nil
}

// manifestHeaders sets the headers of a manifest, and answers 304 when the
// client has it already. A manifest is served as it was pushed, whatever Accept
// says: converting it would change its digest.
func (s *Server) manifestHeaders(ex *exchange, r *http.Request, ref oci.Reference, m metadata.Manifest) (done bool) {
	h := ex.Header()
	setAttachment(h)
	set(h, "Docker-Content-Digest", m.Digest.String())
	set(h, "Etag", etag(m.Digest))
	if ref.Digest != "" {
		set(h, "Cache-Control", "private, max-age=31536000, immutable")
	} else {
		set(h, "Cache-Control", "no-cache") // a tag may move
	}
	if etagMatches(r.Header.Get("If-None-Match"), m.Digest) {
		ex.WriteHeader(http.StatusNotModified)
		return true
	}
	set(h, "Content-Type", manifest.ContentType(m.MediaType))
	set(h, "Content-Length", strconv.FormatInt(m.Size, 10))
	return false
}

// set is Header.Set for a name that is in canonical form already.
func set(h http.Header, name, value string) { h[name] = []string{value} }

func (s *Server) putManifest(ex *exchange, r *http.Request) error {
	ref, err := oci.ParseReference(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	q, err := query(r)
	if err != nil {
		return err
	}
	raw, done, err := s.registry.ReadManifest(r.Context(), ex.Actor(), r.ContentLength, r.Body)
	defer done()
	if err != nil {
		return err
	}
	pushed, err := s.registry.PushManifest(r.Context(), ex.Actor(), ex.repository, ref, q["tag"], r.Header.Get("Content-Type"), raw)
	if err != nil {
		return err
	}
	h := ex.Header()
	h.Set("Location", "/v2/"+ex.repository+"/manifests/"+pushed.Digest.String())
	h.Set("Docker-Content-Digest", pushed.Digest.String())
	h.Set("Content-Length", "0")
	if pushed.Subject != "" {
		h.Set("OCI-Subject", pushed.Subject.String())
	}
	for _, tag := range pushed.Tags {
		h.Add("OCI-Tag", tag)
	}
	ex.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) deleteManifest(ex *exchange, r *http.Request) error {
	ref, err := oci.ParseReference(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	actor := ex.Actor()
	if ref.Digest != "" {
		_, err = s.registry.DeleteManifest(r.Context(), actor, ex.repository, ref.Digest)
	} else {
		err = s.registry.DeleteTag(r.Context(), actor, ex.repository, ref.Tag)
	}
	if err != nil {
		return err
	}
	ex.Header().Set("Content-Length", "0")
	ex.WriteHeader(http.StatusAccepted)
	return nil
}

// referrersMediaType is what the list of referrers is (distribution-spec, "Listing Referrers").
const referrersMediaType = oci.MediaTypeImageIndex

// mediaTypeParameter reads a media type in a query. Many clients send the + of application/spdx+json as
// it is, which means a space in a query (URL Standard, application/x-www-form-urlencoded). There is
// no space in a type, only in its parameters.
func mediaTypeParameter(s string) string {
	name, parameters, more := strings.Cut(s, ";")
	name = strings.ReplaceAll(name, " ", "+")
	if more {
		return name + ";" + parameters
	}
	return name
}

func (s *Server) listReferrers(ex *exchange, r *http.Request) error {
	subject, err := oci.ParseDigest(mux.Vars(r)["digest"])
	if err != nil {
		return err
	}
	q, err := query(r)
	if err != nil {
		return err
	}
	p, err := parsePage(q)
	if err != nil {
		return err
	}
	var after digest.Digest
	if p.last != "" {
		if after, err = oci.ParseDigest(p.last); err != nil {
			return err
		}
	}
	artifactType := mediaTypeParameter(q.Get("artifactType"))
	list, next, err := s.registry.Referrers(r.Context(), ex.repository, subject, artifactType, after, p.n)
	if err != nil && !errors.Is(err, oci.ErrNameUnknown) {
		return err
	}
	if list == nil {
		list = list[:0:0]
	}
	if artifactType != "" {
		ex.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if next != "" && p.n > 0 {
		setNext(ex, r, p, next.String())
	}
	setAttachment(ex.Header())
	body := struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Manifests     any    `json:"manifests"`
	}{2, referrersMediaType, list}
	if len(list) == 0 {
		body.Manifests = []struct{}{}
	}
	writeJSON(ex, referrersMediaType, http.StatusOK, body)
	return nil
}
