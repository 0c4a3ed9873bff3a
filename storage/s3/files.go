package s3

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/minio/minio-go/v7"

	"berth/storage"
)

var _ storage.Filer = (*Store)(nil)

func (s *Store) fileKey(name string) (string, error) {
	if !storage.ValidFileName(name) {
		return "", fmt.Errorf("%w: %.100q is not the name of a file here", storage.ErrNotFound, name)
	}
	return s.prefix + name, nil
}

// PutFile implements [storage.Filer]. The client library sends a large file in
// parts, read from the file itself, and S3 shows it when it is complete.
func (s *Store) PutFile(ctx context.Context, name string, f *os.File) error {
	key, err := s.fileKey(name)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.config.Timeout+time.Duration(info.Size())*time.Second/(512<<10))
	defer cancel()
	if _, err := s.core.Client.PutObject(ctx, s.config.Bucket, key, f, info.Size(), minio.PutObjectOptions{ContentType: "application/octet-stream"}); err != nil {
		return fmt.Errorf("storing the file %s: %w", name, translate(err))
	}
	return nil
}

// OpenFile implements [storage.Filer].
func (s *Store) OpenFile(ctx context.Context, name string) (io.ReadCloser, error) {
	key, err := s.fileKey(name)
	if err != nil {
		return nil, err
	}
	body, err := s.get(ctx, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, s.notFound(ctx, name, err)
	}
	return body, nil
}

// DeleteFile implements [storage.Filer].
func (s *Store) DeleteFile(ctx context.Context, name string) error {
	key, err := s.fileKey(name)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	if err := s.core.RemoveObject(ctx, s.config.Bucket, key, minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("deleting the file %s: %w", name, translate(err))
	}
	return nil
}
