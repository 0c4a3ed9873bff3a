package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// quietFor is how long nothing has to be collected before memory is given back.
const quietFor = 5 * time.Second

// giveBack returns the heap's free memory to the system whenever a busy time is
// over, until the context ends. The runtime by itself keeps it for minutes, which on a
// machine with other work is most of what an idle registry takes. That a
// collection ran says that there was work: a registry that is only asked for its
// health needs none for minutes.
func giveBack(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	cycles := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	tick := time.NewTicker(quietFor)
	defer tick.Stop()
	for last, busy := cycles(), true; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := cycles()
		switch {
		case now != last:
			busy = true
		case busy:
			debug.FreeOSMemory() // a collection too
			now, busy = cycles(), false
		}
		last = now
	}
}
