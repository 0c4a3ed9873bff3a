package serve

import (
	"context"
	"log/slog"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Memory is given back when nothing had to be collected for quietFor; that is
// looked at every quietCheck.
const (
	quietFor   = 4 * time.Second
	quietCheck = time.Second
)

// giveBack returns memory to the system whenever a busy time is over, until the context ends: what
// rest lets go of, the heap's free memory, which the runtime by itself keeps for minutes, and the
// pages of the program that were needed last at the start. On a machine with other work that is
// most of what an idle registry takes. That a collection ran says that there was work: a registry
// that is only asked for its health needs none for minutes.
func giveBack(ctx context.Context, rest func(context.Context) error, log *slog.Logger) {
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	cycles := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	tick := time.NewTicker(quietCheck)
	defer tick.Stop()
	quiet, busy := time.Duration(0), true
	for last := cycles(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := cycles(); now != last {
			last, quiet, busy = now, 0, true
			continue
		}
		if quiet += quietCheck; !busy || quiet < quietFor {
			continue
		}
		if err := rest(ctx); err != nil {
			log.DebugContext(ctx, "giving back memory", "error", err) // costs memory only
		}
		debug.FreeOSMemory() // a collection too
		dropProgram()
		last, busy = cycles(), false
	}
}
