package cli_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"orama.network/orama/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"orama": func() { os.Exit(cli.Main(os.Args[1:])) },
	})
}

// TestScripts runs testdata/*.txtar: what a user types, and what must come of it.
// [exit N] after a command is not part of testscript, so exit codes are checked by the shell.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			pid := os.Getpid()
			e.Setenv("IP", netip.AddrFrom4([4]byte{127, byte(160 + pid>>8&31), byte(pid), 9}).String()) // nobody else's
			return nil
		},
	})
}
