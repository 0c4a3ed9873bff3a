package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// content is a body with its digest, computed before any clock starts. Its
// parts are sent one after the other; parts may be shared between contents.
type content struct {
	digest string
	size   int64
	parts  [][]byte
}

// newContent makes size incompressible bytes that depend on the key alone.
func newContent(key string, size int) *content {
	data := make([]byte, size)
	stream(key).Read(data)
	return wrap(data)
}

// stream is a ChaCha8 generator seeded by the key.
func stream(key string) *rand.ChaCha8 {
	h := fnv.New128a()
	h.Write([]byte(key))
	var seed [32]byte
	h.Sum(seed[:0])
	binary.LittleEndian.PutUint64(seed[16:], uint64(len(key)))
	return rand.NewChaCha8(seed)
}

func wrap(parts ...[]byte) *content {
	h := sha256.New()
	c := &content{parts: parts}
	for _, p := range parts {
		h.Write(p)
		c.size += int64(len(p))
	}
	c.digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return c
}

// variants makes n contents of the same size that share all bytes but the
// first 4 KiB, so that hundreds of large bodies fit into memory.
func variants(key string, n, size int) []*content {
	base := make([]byte, size)
	stream(key).Read(base)
	list := make([]*content, n)
	for i := range list {
		head := make([]byte, 4*kib)
		stream(fmt.Sprint(key, "/", i)).Read(head)
		list[i] = wrap(head, base[len(head):])
	}
	return list
}

// image is a config, some layers, and the manifest that names them.
type image struct {
	blobs    []*content // layers, then the config, in docker's order
	manifest *content
}

// newImage makes an image of 16 KiB blobs: five layers and a config.
func newImage(key string) *image {
	im := &image{}
	for i := range 5 {
		im.blobs = append(im.blobs, newContent(fmt.Sprint(key, "/layer/", i), 16*kib))
	}
	im.blobs = append(im.blobs, newContent(key+"/config", 16*kib))
	im.manifest = newManifest(im.blobs, "")
	return im
}

// newManifest makes an image manifest of blobs, the last of which is the
// config. A note makes it a manifest of its own.
func newManifest(blobs []*content, note string) *content {
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}
	m := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{SchemaVersion: 2, MediaType: typeManifest}
	last := len(blobs) - 1
	m.Config = descriptor{typeConfig, blobs[last].digest, blobs[last].size}
	for _, b := range blobs[:last] {
		m.Layers = append(m.Layers, descriptor{typeLayer, b.digest, b.size})
	}
	if note != "" {
		m.Annotations = map[string]string{"org.opencontainers.image.version": note}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err) // plain strings and numbers
	}
	return wrap(raw)
}
