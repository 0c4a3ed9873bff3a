package open

import (
	"os"
	"testing"

	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
