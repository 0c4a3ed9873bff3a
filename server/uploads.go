package server

import (
	"errors"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/opencontainers/go-digest"

	"berth/oci"
	"berth/registry"
)

// startUpload begins an upload, or saves the client one: POST with mount= links
// a blob that is there already, and with digest= takes the blob at once.
func (s *Server) startUpload(ex *exchange, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	algorithmName := q.Get("digest-algorithm")
	if q.Has("mount") {
		// A mount that cannot be is an upload like any other, whatever makes it impossible, a name or a digest
		// that is none included (distribution-spec, "Mounting a blob from another repository").
		if d, err := oci.ParseDigest(q.Get("mount")); err == nil {
			mounted, err := s.mount(ex, r, d, q.Get("from"))
			if err != nil {
				return err
			}
			if mounted {
				s.blobCreated(ex, d)
				return nil
			}
			if algorithmName == "" {
				algorithmName = d.Algorithm().String() // the client has named the digest that it is going to upload
			}
		}
	} else if q.Has("digest") {
		d, err := oci.ParseDigest(q.Get("digest"))
		if err != nil {
			return err
		}
		b, err := s.registry.PutBlob(r.Context(), ex.Actor(), ex.repository, d, r.ContentLength, r.Body)
		if err != nil {
			return err
		}
		s.blobCreated(ex, b.Digest)
		return nil
	}
	algorithm, err := oci.ParseAlgorithm(algorithmName)
	if err != nil {
		return err
	}
	u, err := s.registry.StartUpload(r.Context(), ex.Actor(), ex.repository, algorithm)
	if err != nil {
		return err
	}
	s.uploadState(ex, u)
	ex.WriteHeader(http.StatusAccepted)
	return nil
}

// mount links a blob that another repository has. False is: upload it.
func (s *Server) mount(ex *exchange, r *http.Request, d digest.Digest, from string) (bool, error) {
	var candidates []string
	if from != "" {
		if _, err := oci.ParseName(from); err != nil {
			return false, nil // no repository has this name
		}
		candidates = []string{from}
	} else {
		var err error
		if candidates, err = s.registry.MountCandidates(r.Context(), d); err != nil {
			return false, err
		}
	}
	source, err := s.mountSource(ex, r, from, candidates)
	if source == "" || err != nil {
		return false, err
	}
	return s.registry.MountBlob(r.Context(), ex.Actor(), ex.repository, d, source)
}

func (s *Server) getUpload(ex *exchange, r *http.Request) error {
	u, err := s.registry.UploadStatus(r.Context(), ex.Actor(), ex.repository, mux.Vars(r)["upload"])
	if err != nil {
		return err
	}
	s.uploadState(ex, u)
	ex.Header().Del("Content-Length") // a 204 has none
	ex.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) patchUpload(ex *exchange, r *http.Request) error {
	id := mux.Vars(r)["upload"]
	at, length, err := parseContentRange(r.Header.Get("Content-Range"), r.ContentLength)
	if err != nil {
		return s.withState(ex, r, id, err)
	}
	u, err := s.registry.AppendUpload(r.Context(), ex.Actor(), ex.repository, id, at, length, r.Body)
	if err != nil {
		return s.uploadError(ex, u, err)
	}
	s.uploadState(ex, u)
	ex.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) putUpload(ex *exchange, r *http.Request) error {
	id := mux.Vars(r)["upload"]
	q, err := query(r)
	if err != nil {
		return err
	}
	if !q.Has("digest") {
		return oci.Errorf(oci.CodeDigestInvalid, "the request that closes an upload needs the parameter digest: add ?digest=sha256:<64 hex digits>")
	}
	d, err := oci.ParseDigest(q.Get("digest"))
	if err != nil {
		return err
	}
	at, length, err := parseContentRange(r.Header.Get("Content-Range"), r.ContentLength)
	if err != nil {
		return s.withState(ex, r, id, err)
	}
	b, err := s.registry.CommitUpload(r.Context(), ex.Actor(), ex.repository, id, d, at, length, r.Body)
	if err != nil {
		return s.uploadError(ex, registry.Upload{}, err)
	}
	s.blobCreated(ex, b.Digest)
	return nil
}

func (s *Server) deleteUpload(ex *exchange, r *http.Request) error {
	if err := s.registry.CancelUpload(r.Context(), ex.Actor(), ex.repository, mux.Vars(r)["upload"]); err != nil {
		return err
	}
	ex.WriteHeader(http.StatusNoContent)
	return nil
}

// uploadState sets where to continue an upload, and where it is. The location is
// a path, so that it holds behind any proxy.
func (s *Server) uploadState(ex *exchange, u registry.Upload) {
	h := ex.Header()
	h.Set("Location", "/v2/"+ex.repository+"/blobs/uploads/"+u.ID)
	h.Set("Range", uploadRange(u.Size))
	h.Set("Docker-Upload-UUID", u.ID)
	h.Set("Content-Length", "0")
}

// uploadError sets the true state beside an error, so that a client can
// continue without asking.
func (s *Server) uploadError(ex *exchange, u registry.Upload, err error) error {
	var outOfRange *registry.RangeError
	if errors.As(err, &outOfRange) {
		u = outOfRange.Upload
	}
	if u.ID != "" {
		s.uploadState(ex, u)
	}
	return err
}

// withState is uploadError for a request that was refused before the registry
// looked at its upload.
func (s *Server) withState(ex *exchange, r *http.Request, id string, err error) error {
	u, statusErr := s.registry.UploadStatus(r.Context(), ex.Actor(), ex.repository, id)
	if statusErr != nil {
		return statusErr
	}
	return s.uploadError(ex, u, err)
}

func (s *Server) blobCreated(ex *exchange, d digest.Digest) {
	h := ex.Header()
	h.Set("Location", "/v2/"+ex.repository+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	ex.WriteHeader(http.StatusCreated)
}
