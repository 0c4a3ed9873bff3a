package cli

import (
	"fmt"
	"io"
	"os"
)

// MaxConfigFile bounds a settings file and a secret's file, in bytes.
const MaxConfigFile = 1 << 20

// ReadSmallFile reads a file of 1 MiB at most, such as one of settings or of a secret.
func ReadSmallFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxConfigFile+1))
	if err == nil && len(b) > MaxConfigFile {
		err = fmt.Errorf("%s is larger than 1 MiB", path)
	}
	return b, err
}
