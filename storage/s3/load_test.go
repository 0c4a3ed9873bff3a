package s3_test

import (
	"testing"
	"time"

	"berth/storage"
	"berth/storage/storagetest"
	"berth/testenv"
)

// The figures of the issue: 100 uploads of 64 MiB at once stay below 400 MiB of
// resident memory, and with 200 trickling clients a push runs at half its speed or better.

func TestResidentMemory(t *testing.T) {
	bucket := testenv.MinIO(t)
	if storagetest.WithoutRaceDetector(t, environment(bucket)...) {
		return
	}
	c := config(bucket)
	c.Budget = storage.NewBudget(0)
	const n, size = 100, 64 << 20
	peak, took := storagetest.Uploads(t, open(t, c), n, size)
	now, most, _ := c.Budget.Usage()
	t.Logf("%d uploads of 64 MiB at once: %d MiB resident at most, %d MiB of buffers, %v, %.0f MB/s",
		n, peak>>20, most>>20, took.Round(time.Second), float64(n*size)/1e6/took.Seconds())
	if peak > 400<<20 {
		t.Errorf("%d MiB resident, want less than 400", peak>>20)
	}
	if most > c.Budget.Bytes() {
		t.Errorf("%d bytes of buffers, want at most %d", most, c.Budget.Bytes())
	}
	if now != 0 {
		t.Errorf("%d bytes of buffers are in use after the last upload", now)
	}
}

func TestTricklers(t *testing.T) {
	bucket := testenv.MinIO(t)
	if storagetest.WithoutRaceDetector(t, environment(bucket)...) {
		return
	}
	c := config(bucket)
	c.Budget = storage.NewBudget(0)
	alone, trickling := storagetest.Speeds(t, open(t, c), 256<<20, 200)
	t.Logf("256 MiB alone: %.0f MB/s; with 200 trickling clients: %.0f MB/s, %.0f %%", alone/1e6, trickling/1e6, 100*trickling/alone)
	if trickling < alone/2 {
		t.Error("the push runs at less than half its speed")
	}
	if now, _, waiting := c.Budget.Usage(); now != 0 || waiting != 0 {
		t.Errorf("%d bytes in use and %d waiting after the last upload", now, waiting)
	}
}

// TestTinyBudget runs more uploads than fit, by far; every one gets its turn.
func TestTinyBudget(t *testing.T) {
	c := config(testenv.MinIO(t))
	c.Budget = storage.NewBudget(storage.MinBudget)
	store := open(t, c)
	defer storagetest.Trickle(t, store, 30)()
	_, took := storagetest.Uploads(t, store, 100, 12<<20)
	_, most, _ := c.Budget.Usage()
	t.Logf("100 uploads of 12 MiB beside 30 trickling ones, in a budget of 16 MiB: %v, %d MiB of buffers", took.Round(time.Second), most>>20)
	if most > c.Budget.Bytes() {
		t.Errorf("%d bytes of buffers, want at most %d", most, c.Budget.Bytes())
	}
}

func environment(bucket testenv.S3) []string {
	return append(bucket.Env(), "BERTH_TEST_S3_ENDPOINT="+bucket.Endpoint)
}
