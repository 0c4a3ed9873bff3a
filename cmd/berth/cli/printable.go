package cli

import (
	"strconv"
	"strings"
	"unicode"
)

// Printable is a text of others as a terminal may show it: a control character, which could move
// the cursor or begin a row, and one that turns the direction of writing are shown as escapes.
// Descriptions, reasons and messages are what somebody wrote, and the one who reads them may be an
// administrator.
func Printable(s string) string { return escape(s, "") }

// PrintableLines is printable for a text that may have lines.
func PrintableLines(s string) string { return escape(s, "\n\t") }

func escape(s, but string) string {
	special := func(r rune) bool {
		return (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) && !strings.ContainsRune(but, r)
	}
	if !strings.ContainsFunc(s, special) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if special(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
