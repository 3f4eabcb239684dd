package role

import (
	"bufio"
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/supervisor"
)

// found is a supervisor that has found one process.
type found struct{ state supervisor.UnitState }

func (f found) Ensure(context.Context, supervisor.Unit) error     { return nil }
func (f found) Stop(context.Context, string, time.Duration) error { return nil }
func (f found) List() []supervisor.UnitState                      { return []supervisor.UnitState{f.state} }

// A TURN server of an earlier program is asked to hand over when the agent starts, once; one of the same program is not.
func TestAgentRenewsTURN(t *testing.T) {
	shell, err := exec.LookPath("sh")
	require.NoError(t, err)
	c := exec.Command(shell, "-c", `trap "echo asked" USR2; echo there; while :; do read line && echo "$line"; done`)
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() { c.Process.Kill(); c.Wait() }) //nolint:errcheck // it has ended, mostly
	says := bufio.NewScanner(out)
	next := func() string { says.Scan(); return says.Text() }
	require.Equal(t, "there", next())

	run := func(u *units) {
		require.NoError(t, u.Run(t.Context(), orama.RoleSFU, "myapp"))
		require.NoError(t, u.Run(t.Context(), orama.RoleTURN, ""))
		require.NoError(t, u.Run(t.Context(), orama.RoleTURN, ""))
	}
	keep := found{supervisor.UnitState{Name: turnUnit, PID: c.Process.Pid}}
	tell := func(line string) {
		_, err := in.Write([]byte(line + "\n"))
		require.NoError(t, err)
	}
	run(&units{keep: keep, exe: shell})
	run(&units{keep: found{supervisor.UnitState{Name: sfuUnitPrefix + "myapp", PID: c.Process.Pid}}, exe: "/dev/null"})
	tell("not asked")
	require.Equal(t, "not asked", next())
	run(&units{keep: keep, exe: "/dev/null"})
	require.Equal(t, "asked", next())
	tell("once")
	require.Equal(t, "once", next())
}
