package main

import (
	"fmt"
	"time"
)

// plan tells how long a run still takes: steps that were not done yet take as
// long as the last one of the same name, or as long as somebody guessed.
type plan struct {
	about map[string]time.Duration // of a step
	left  map[string]int           // how often it is still to be done
}

func (p *plan) add(step string, times int, about time.Duration) {
	if p.about == nil {
		p.about, p.left = map[string]time.Duration{}, map[string]int{}
	}
	p.about[step] = about
	p.left[step] += times
}

func (p *plan) done(step string, took time.Duration) {
	p.about[step] = took
	p.left[step]--
}

func (p *plan) remaining() (d time.Duration) {
	for step, n := range p.left {
		d += time.Duration(n) * p.about[step]
	}
	return d
}

func (p *plan) String() string {
	return fmt.Sprintf("about %.0f min left", p.remaining().Minutes())
}
