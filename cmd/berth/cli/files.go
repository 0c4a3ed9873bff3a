package main

import (
	"fmt"
	"io"
	"os"
)

// maxConfigFile bounds a settings file and a secret's file, in bytes.
const maxConfigFile = 1 << 20

func readSmallFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err == nil && len(b) > maxConfigFile {
		err = fmt.Errorf("%s is larger than 1 MiB", path)
	}
	return b, err
}
