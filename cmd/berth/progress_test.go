package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
	"berth/jobs"
)

// On a terminal a long run has a bar with total, rate and time left; elsewhere it writes lines.
func TestProgress(t *testing.T) {
	at := func(done int64) jobs.Progress {
		return jobs.Progress{Unit: jobs.UnitBytes, Done: done, Total: 100 << 20}
	}

	master, slave := openTerminal(t)
	c := &cobra.Command{}
	c.SetErr(slave)
	p := cli.NewProgress(c, "backing up")
	p.Show(at(20<<20), "")
	time.Sleep(2 * 100 * time.Millisecond) // more often it is not drawn
	p.Show(at(40<<20), "40 blobs copied")
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	drawn, _ := io.ReadAll(master) // ends with EIO when nobody has the other side any more
	text := string(drawn)
	for _, want := range []string{"backing up", "40%", "/100 MiB", "MiB/s", "[", "s]"} {
		if !strings.Contains(text, want) {
			t.Errorf("the bar has no %q: %q", want, text)
		}
	}
	if strings.Contains(text, "so far") {
		t.Errorf("the terminal has lines: %q", text)
	}
	p.End() // whose terminal is gone
	p.End()

	var plain strings.Builder
	c.SetErr(&plain)
	p = cli.NewProgress(c, "backing up")
	p.Show(at(40<<20), "40 blobs copied")
	p.End()
	if plain.String() != "so far: 40 blobs copied\n" {
		t.Errorf("elsewhere it says %q", plain.String())
	}
}
