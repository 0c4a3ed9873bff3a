package conformance

import (
	"os"
	"testing"

	"berth/testenv"
)

func TestMain(m *testing.M) {
	code := testenv.Main(m)
	removeBinaries()
	os.Exit(code)
}
