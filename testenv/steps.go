package testenv

import (
	"os"
	"strconv"
	"testing"
)

// Steps is how many steps a random test makes: a few, or as many as in a soak test (make soak, which sets
// BERTH_TEST_SOAK). BERTH_TEST_STEPS sets another number.
func Steps(t testing.TB, few, soak int) int {
	t.Helper()
	if s := os.Getenv("BERTH_TEST_STEPS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("BERTH_TEST_STEPS=%s is not a number of steps", s)
		}
		return n
	}
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		return soak
	}
	return few
}
