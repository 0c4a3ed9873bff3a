// Command image makes Berth's container image from a static binary, without a
// daemon, a base image or the network: the binary, the system's CA
// certificates and an empty /data, owned by a user that is not root.
//
//	go run ./deploy/image -binary berth -tag berth:dev -o dist/berth-image.tar
//
// The output is an archive as `docker save` writes it: docker load, podman
// load, skopeo copy docker-archive:… and crane push all take it. The same
// binary gives the same image, byte for byte.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// user is whom the image runs as; its number is the one that other
// minimal images call nonroot.
const user = 65532

// certificates is where distributions keep the CA bundle.
var certificates = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}

func main() {
	binary := flag.String("binary", "berth", "the static binary")
	tag := flag.String("tag", "berth:dev", "the image's name in the archive")
	out := flag.String("o", "berth-image.tar", "the archive to write")
	version := flag.String("version", "dev", "the version that the labels tell")
	arch := flag.String("arch", runtime.GOARCH, "the architecture that the binary is for")
	flag.Parse()
	if err := run(*binary, *tag, *out, *version, *arch); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(binary, tag, out, version, arch string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	img, err := build(binary, version, arch)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(out, ref, img); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	id, err := img.ConfigName()
	if err != nil {
		return err
	}
	fmt.Printf("%s: image %s (%s)\n", out, tag, id)
	return nil
}

func build(binary, version, arch string) (v1.Image, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	layer, err := files(content)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = v1.Config{
		User:         fmt.Sprintf("%d:%d", user, user),
		Entrypoint:   []string{"/berth"},
		Cmd:          []string{"serve"},
		Env:          []string{"PATH=/", "HOME=/data", "BERTH_DATA_DIR=/data"},
		WorkingDir:   "/data",
		ExposedPorts: map[string]struct{}{"5000/tcp": {}},
		Volumes:      map[string]struct{}{"/data": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "berth",
			"org.opencontainers.image.description": "An OCI registry",
			"org.opencontainers.image.version":     version,
		},
	}
	return mutate.ConfigFile(img, file)
}

// files is the image's one layer as a tar file.
func files(binary []byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h tar.Header, content []byte) error {
		h.Size, h.Format = int64(len(content)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	dir := func(name string, mode int64, owner int) error {
		return add(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: owner, Gid: owner}, nil)
	}
	bundle, err := caBundle()
	if err != nil {
		return nil, err
	}
	passwd := fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\nberth:x:%d:%d:berth:/data:/sbin/nologin\n", user, user)
	err = errors.Join(
		dir("etc/", 0o755, 0),
		add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte(passwd)),
		dir("etc/ssl/", 0o755, 0),
		dir("etc/ssl/certs/", 0o755, 0),
		add(tar.Header{Name: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644}, bundle),
		dir("data/", 0o750, user),
		dir("tmp/", 0o1777, 0),
		add(tar.Header{Name: "berth", Mode: 0o755}, binary),
		w.Close(),
	)
	return out.Bytes(), err
}

// caBundle is what TLS to S3 and Postgres is verified with.
func caBundle() ([]byte, error) {
	for _, path := range certificates {
		if b, err := os.ReadFile(path); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("found no CA certificates; install the package ca-certificates (looked for %q)", certificates)
}
