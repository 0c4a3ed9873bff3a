package mem_test

import (
	"testing"

	"berth/storage"
	"berth/storage/mem"
	"berth/storage/storagetest"
)

func TestContract(t *testing.T) {
	s := mem.New()
	storagetest.Test(t, func(testing.TB) storage.Store { return s })
}
