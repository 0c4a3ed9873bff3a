package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"

	"berth/storage"
)

var _ storage.Filer = (*Store)(nil)

// filePath is the place of a named file, among the directories of the objects.
func (s *Store) filePath(name string) (string, error) {
	if !storage.ValidFileName(name) {
		return "", fmt.Errorf("%w: %.100q is not the name of a file here", storage.ErrNotFound, name)
	}
	return filepath.Join(s.dir, name), nil
}

// PutFile implements [storage.Filer]: written aside, synced, renamed, synced.
func (s *Store) PutFile(ctx context.Context, name string, f *os.File) error {
	path, err := s.filePath(name)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	aside, err := openFile(path+".partial", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("storing the file %s: %w", name, err)
	}
	_, err = io.Copy(aside, storage.ContextReader{Context: ctx, Reader: f})
	if err == nil {
		err = aside.Sync()
	}
	if err = errors.Join(err, aside.Close()); err == nil {
		err = os.Rename(aside.Name(), path)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("storing the file %s: %w", name, err)
	}
	return nil
}

// OpenFile implements [storage.Filer].
func (s *Store) OpenFile(ctx context.Context, name string) (io.ReadCloser, error) {
	path, err := s.filePath(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := openFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, notFound(name, err)
	}
	return f, nil
}

// DeleteFile implements [storage.Filer].
func (s *Store) DeleteFile(_ context.Context, name string) error {
	path, err := s.filePath(name)
	if err != nil {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return fmt.Errorf("deleting the file %s: %w", name, err)
	}
	return nil
}
