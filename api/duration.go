package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// ParseDuration reads a duration as every setting, flag and field of Berth takes it: what Go's
// time.ParseDuration reads (90s, 1.5h, 720h), and whole days, weeks and years of 365 days (10d, 2w,
// 1d12h, 1y), as Prometheus writes them. A bare number other than 0 has no unit and is refused.
func ParseDuration(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return d, nil
	}
	d, err := model.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a duration such as 90s, 24h or 10d", s)
	}
	return time.Duration(d), nil
}

// FormatDuration writes a duration without the units that are zero at its end: 10m, 2160h, 1h30m,
// 0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}
