package oci

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// IsText reports whether a string is UTF-8 without NUL. Nothing else can be a name or a value
// in the database: Postgres rejects both.
func IsText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// ShowBytes is a number of bytes for people, in binary units with one digit after the point:
// 1536 is "1.5 KiB".
func ShowBytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if v /= 1024; v < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}
