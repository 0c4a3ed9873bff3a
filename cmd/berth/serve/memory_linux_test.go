package serve

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// smaps is cut down to the lines that matter.
const smaps = `00400000-0132a000 r-xp 00000000 fe:00 12345      /usr/local/bin/berth
Rss:                9000 kB
Anonymous:             0 kB
0132a000-02320000 r--p 00f2a000 fe:00 12345      /usr/local/bin/berth
Anonymous:             0 kB
02320000-02321000 r--p 01f20000 fe:00 12345      /usr/local/bin/berth
Anonymous:             4 kB
02321000-02404000 rw-p 01f21000 fe:00 12345      /usr/local/bin/berth
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 77   /usr/lib/other/usr/local/bin/berth
Anonymous:             0 kB
7f0000200000-7f0000300000 r--p 00000000 00:00 0
Anonymous:             0 kB
`

func TestCleanMappings(t *testing.T) {
	got := cleanMappings(strings.NewReader(smaps), "/usr/local/bin/berth")
	want := []mapping{{0x400000, 0x132a000}, {0x132a000, 0x2320000}}
	if !slices.Equal(got, want) {
		t.Errorf("got %x, want %x: neither what was written to, nor what can be, nor another file", got, want)
	}
}

// TestDropProgram goes on running without the pages of the program.
func TestDropProgram(t *testing.T) {
	before := mappedFiles(t)
	for range 3 {
		dropProgram()
	}
	after := mappedFiles(t)
	t.Logf("mapped pages of files: %d, then %d", before, after)
	if after >= before {
		t.Errorf("%d pages of files are mapped, no fewer than the %d before", after, before)
	}
}

// mappedFiles is the number of pages of files that are mapped here.
func mappedFiles(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, field, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(field, &kib); err != nil {
		t.Fatal(err)
	}
	return kib / 4
}
