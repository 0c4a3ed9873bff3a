package metadata_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"berth/metadata/metadatatest"
	"berth/oci"
)

// The glob of Go and that of each engine say the same of patterns and names of the characters
// that patterns may have, and of names with characters of several bytes.
func TestGlobIsOne(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	text := func(alphabet string, most int) string {
		characters := []rune(alphabet)
		var b strings.Builder
		for range random.IntN(most + 1) {
			b.WriteRune(characters[random.IntN(len(characters))])
		}
		return b.String()
	}
	type pair struct{ glob, name string }
	// Few letters match often; wildcards of LIKE, which stand for themselves here, are among them.
	pairs := []pair{{"", ""}, {"", "a"}, {"*", ""}, {"?", ""}, {"?", "ä"}, {"??", "ä"}, {"*?", "€"}, {"a_b", "axb"}, {"a", "A"}, {"v1.*", "v1x0"}}
	for range 4000 {
		p := pair{text("aA_/-.**??", 7), text("aA_/-.", 8)}
		if random.IntN(4) == 0 {
			p.name = text(`aAä€_%\`, 8)
		}
		pairs = append(pairs, p)
	}
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := shell(t, url, true)
		for chunk := range slices.Chunk(pairs, 500) {
			var rows []string
			var args []any
			for i, p := range chunk {
				rows = append(rows, fmt.Sprintf("(%d, $%d, $%d)", i, 2*i+1, 2*i+2))
				args = append(args, p.glob, p.name)
			}
			answers, err := db.QueryContext(t.Context(), "WITH p (i, pattern, name) AS (VALUES "+strings.Join(rows, ", ")+") SELECT i, glob(pattern, name) FROM p", args...)
			if err != nil {
				t.Fatal(err)
			}
			seen := 0
			for ; answers.Next(); seen++ {
				var i int
				var got bool
				if err := answers.Scan(&i, &got); err != nil {
					t.Fatal(err)
				}
				if p := chunk[i]; got != oci.Match(p.glob, p.name) {
					t.Errorf("glob(%q, %q) is %v in SQL and %v in Go", p.glob, p.name, got, !got)
				}
			}
			if err := answers.Close(); err != nil || answers.Err() != nil || seen != len(chunk) {
				t.Fatalf("%d rows of %d: %v %v", seen, len(chunk), err, answers.Err())
			}
		}
	})
}
