package fs_test

import (
	"sync"
	"testing"

	"berth/storage"
	"berth/storage/fs"
	"berth/storage/storagetest"
)

// places gives each test its own directory, the same to each of its stores.
func places(o fs.Options) func(testing.TB) storage.Store {
	var dirs sync.Map
	return func(t testing.TB) storage.Store {
		t.Helper()
		dir, ok := dirs.Load(t.Name())
		if !ok {
			dir, _ = dirs.LoadOrStore(t.Name(), t.TempDir())
		}
		s, err := fs.New(dir.(string), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func TestContract(t *testing.T) {
	storagetest.Test(t, places(fs.Options{Budget: storage.NewBudget(0)}))
}

func TestContractShared(t *testing.T) {
	storagetest.Test(t, places(fs.Options{Budget: storage.NewBudget(storage.MinBudget), Shared: true}))
}

func BenchmarkPush(b *testing.B) {
	s, err := fs.New(b.TempDir(), fs.Options{})
	if err != nil {
		b.Fatal(err)
	}
	storagetest.Benchmark(b, s)
}
