package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// Kept is what `berth login` keeps of a sign-in at a registry: either of an OpenID
// provider, to be refreshed, or a user name with its secret, as docker login stores it.
type Kept struct {
	Issuer       string    `json:"issuer,omitempty"`
	ClientID     string    `json:"client_id,omitempty"`
	Subject      string    `json:"subject,omitempty"`
	IDToken      string    `json:"id_token,omitempty"`
	Expires      time.Time `json:"expires,omitzero"` // of IDToken
	RefreshToken string    `json:"refresh_token,omitempty"`
	CA           string    `json:"ca,omitempty"` // absolute path of --ca at the sign-in: docker gives the helper no flag

	Username string `json:"username,omitempty"`
	Secret   string `json:"secret,omitempty"`
}

// maxKept bounds the file of credentials, in bytes.
const maxKept = 4 << 20

// keptFile is where credentials are kept: below the user's directory for settings,
// readable by the user alone.
func keptFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("finding where to keep credentials: %w", err)
	}
	return filepath.Join(dir, "berth", "credentials.json"), nil
}

// withKept gives fn what is kept, by the host of the registry, and stores it
// again when fn says that it has changed it. Other processes wait meanwhile: a
// refresh token that two of them used at the same time would be lost for both.
func withKept(fn func(all map[string]Kept) (changed bool, err error)) error {
	path, err := keptFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keeping credentials: %w", err)
	}
	unlock, err := lockedfile.MutexAt(path + ".lock").Lock()
	if err != nil {
		return fmt.Errorf("keeping credentials: %w", err)
	}
	defer unlock()
	all := map[string]Kept{}
	raw, err := readKept(path)
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		return fmt.Errorf("reading the credentials in %s: %w", path, err)
	}
	changed, err := fn(all)
	if changed {
		if werr := writeKept(path, all); werr != nil {
			return fmt.Errorf("keeping credentials in %s: %w", path, werr)
		}
	}
	return err
}

func readKept(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Size() > maxKept:
		return nil, fmt.Errorf("it is larger than %d bytes", maxKept)
	}
	return os.ReadFile(path)
}

// writeKept replaces the file at once, so that it is whole whatever happens.
func writeKept(path string, all map[string]Kept) error {
	raw, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "credentials-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is gone after the rename
	if _, err = f.Write(raw); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
