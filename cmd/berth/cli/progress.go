package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"berth/jobs"
)

// Progress shows on stderr how far a long run is: on a terminal a bar with total, rate and time
// left, elsewhere a line now and then.
type Progress struct {
	w        io.Writer
	terminal bool
	what     string
	bar      *progressbar.ProgressBar // nil until the total is known
	unit     string
	told     time.Time // when the last line was written
}

// lineEvery is how often a line is written at most.
const lineEvery = time.Second

// NewProgress begins with what is done, such as "backing up". The caller ends it before it prints
// something else.
func NewProgress(cmd *cobra.Command, what string) *Progress {
	p := &Progress{w: cmd.ErrOrStderr(), what: what}
	if f, ok := p.w.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	return p
}

// barThrottle is how often a bar is drawn at most.
const barThrottle = 100 * time.Millisecond

// Show tells how far the run is. Where there is no bar, it is the line.
func (p *Progress) Show(at jobs.Progress, line string) {
	if !p.terminal {
		if time.Since(p.told) >= lineEvery {
			p.told = time.Now()
			fmt.Fprintln(p.w, "so far:", line)
		}
		return
	}
	if at.Total <= 0 {
		return
	}
	if p.bar == nil || p.unit != at.Unit || p.bar.GetMax64() != at.Total { // the next part of the run
		p.End()
		p.unit = at.Unit
		options := []progressbar.Option{
			progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetDescription(p.what),
			progressbar.OptionThrottle(barThrottle),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionShowCount(),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSetWidth(20),
			progressbar.OptionUseANSICodes(true),
		}
		if at.Unit == jobs.UnitBytes {
			options = append(options, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true))
		} else {
			options = append(options, progressbar.OptionShowIts(), progressbar.OptionSetItsString("items"))
		}
		p.bar = progressbar.NewOptions64(at.Total, options...)
	}
	// The work goes on when nothing can be drawn.
	_ = p.bar.Set64(at.Done)
}

// End takes the bar away. It may be called twice.
func (p *Progress) End() {
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
