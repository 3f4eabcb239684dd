package supervisor

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	sfuName = "orama-namespace-sfu@myapp"
	sfuUnit = sfuName + ".service"
)

func TestSystemdStartsWhatDoesNotRun(t *testing.T) {
	f, s := newFakeSystemd(t)
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	require.Equal(t, []string{"StartUnit " + sfuUnit}, f.called("StartUnit"))

	for range 5 {
		require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	}
	require.Len(t, f.called("StartUnit"), 1, "what runs is not started again")
	require.Len(t, f.called("List"), 2, "one reading serves many")

	f.unit(sfuUnit, func(u *fakeUnit) { u.active = "activating" })
	s.changed()
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	require.Len(t, f.called("StartUnit"), 1, "systemd is about to restart it")

	f.unit(sfuUnit, func(u *fakeUnit) { u.active = "inactive" })
	s.changed()
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	require.Len(t, f.called("StartUnit"), 2, "somebody stopped it by hand")
}

func TestSystemdUnitsOfOthersAreRefused(t *testing.T) {
	f, s := newFakeSystemd(t)
	for _, name := range []string{"ssh", "orama", "orama-turn/../ssh", "orama-turn.service", "", "../x", "orama-namespace-sfu@a b"} {
		require.Error(t, s.Ensure(t.Context(), Unit{Name: name}), name)
		require.Error(t, s.Stop(t.Context(), name, time.Second), name)
	}
	require.Empty(t, f.called(""))
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: "orama-turn"}))
}

func TestSystemdStartThatFails(t *testing.T) {
	f, s := newFakeSystemd(t)
	f.unit(sfuUnit, func(u *fakeUnit) {
		u.result = "failed"
		u.props["ExecMainCode"], u.props["ExecMainStatus"], u.props["StatusText"] = int32(exitedCode), int32(3), "no address"
	})
	err := s.Ensure(t.Context(), Unit{Name: sfuName})
	require.ErrorContains(t, err, "exit 3")
	require.ErrorContains(t, err, "no address")
	require.ErrorContains(t, err, "journalctl -u "+sfuName)

	f.unit(sfuUnit, func(u *fakeUnit) { u.refuse = "org.freedesktop.systemd1.UnitMasked" })
	f.unit(sfuUnit, func(u *fakeUnit) { u.active = "inactive" })
	s.changed()
	require.ErrorContains(t, s.Ensure(t.Context(), Unit{Name: sfuName}), "cannot be started")
}

// A unit that systemd gave up comes back, but not in a tight loop.
func TestSystemdRevives(t *testing.T) {
	f, s := newFakeSystemd(t)
	f.unit(sfuUnit, func(u *fakeUnit) {
		u.active = "failed"
		u.props["Result"], u.props["ExecMainCode"], u.props["ExecMainStatus"] = "watchdog", int32(dumpedCode), int32(6)
	})
	err := s.Ensure(t.Context(), Unit{Name: sfuName})
	require.ErrorContains(t, err, "given up")
	require.ErrorContains(t, err, "watchdog")
	require.Empty(t, f.called("StartUnit"))

	s.mu.Lock()
	r := s.revivals[sfuUnit]
	require.Equal(t, firstRevival, r.wait)
	s.revivals[sfuUnit] = revival{wait: r.wait, from: r.from.Add(-r.wait)}
	s.mu.Unlock()
	s.changed()
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	require.Equal(t, []string{"ResetFailedUnit " + sfuUnit}, f.called("Reset"))
	require.Len(t, f.called("StartUnit"), 1)

	f.unit(sfuUnit, func(u *fakeUnit) { u.active = "failed" })
	s.changed()
	require.ErrorContains(t, s.Ensure(t.Context(), Unit{Name: sfuName}), "given up")
	s.mu.Lock()
	require.Equal(t, 2*firstRevival, s.revivals[sfuUnit].wait, "each time longer")
	s.mu.Unlock()
}

func TestSystemdStop(t *testing.T) {
	f, s := newFakeSystemd(t)
	require.NoError(t, s.Stop(t.Context(), sfuName, time.Second), "one that nobody knows")
	f.unit(sfuUnit, func(*fakeUnit) {})
	require.NoError(t, s.Stop(t.Context(), sfuName, time.Second), "one that does not run")
	require.Empty(t, f.called("StopUnit"), "to name a unit is to load it")

	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	require.Len(t, s.List(), 1)
	require.NoError(t, s.Stop(t.Context(), sfuName, time.Second))
	require.Empty(t, s.List())
	require.Empty(t, f.called("Kill"))

	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	f.unit(sfuUnit, func(u *fakeUnit) { u.stubborn = true })
	require.NoError(t, s.Stop(t.Context(), sfuName, 20*time.Millisecond))
	require.Equal(t, []string{"KillUnit " + sfuUnit}, f.called("Kill"))
	require.Equal(t, []string{"ResetFailedUnit " + sfuUnit}, f.called("Reset"), "a killed unit stays in no list of failures")
	require.Empty(t, s.List())
}

func TestSystemdStopOutlivesItsCaller(t *testing.T) {
	f, s := newFakeSystemd(t)
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	f.unit(sfuUnit, func(u *fakeUnit) { u.stubborn = true })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, s.Stop(ctx, sfuName, time.Minute))
	require.Empty(t, f.called("Kill"))
}

func TestSystemdList(t *testing.T) {
	f, s := newFakeSystemd(t)
	started := time.UnixMicro(1_700_000_000_000_000)
	f.unit(sfuUnit, func(u *fakeUnit) {
		u.active = "active"
		u.props = map[string]any{"MainPID": uint32(99), "NRestarts": uint32(2), "ExecMainStartTimestamp": uint64(started.UnixMicro())}
	})
	f.unit("orama-turn.service", func(u *fakeUnit) {
		u.active = "activating"
		u.props = map[string]any{"NRestarts": uint32(1), "Result": "signal", "ExecMainCode": int32(killedCode), "ExecMainStatus": int32(9),
			"ExecMainExitTimestamp": uint64(started.UnixMicro())}
	})
	f.unit("orama-namespace-turn@old.service", func(*fakeUnit) {}) // inactive: no longer anything
	f.unit("ssh.service", func(u *fakeUnit) { u.active = "active" })
	require.Equal(t, []UnitState{
		{Name: sfuName, PID: 99, Since: started, Restarts: 2},
		{Name: "orama-turn", Since: started, Restarts: 1, LastExit: "signal: killed"},
	}, s.List())

	// Restarted between two looks: the PID tells.
	f.unit(sfuUnit, func(u *fakeUnit) { u.props["MainPID"] = uint32(100) })
	s.changed()
	list := s.List()
	require.Equal(t, 100, list[0].PID)
	require.Contains(t, list[0].LastExit, "restarted by systemd")
}

// A silent bus means that nothing is known, not that nothing runs; a new bus is found.
func TestSystemdBusLost(t *testing.T) {
	f, s := newFakeSystemd(t)
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	before := s.List()
	require.Len(t, before, 1)

	s.mu.Lock()
	s.conn.Close()
	s.states = nil
	dial := s.dial
	s.dial = refusedDial
	s.mu.Unlock()
	require.Equal(t, before, s.List())
	require.ErrorContains(t, s.Ensure(t.Context(), Unit{Name: sfuName}), "D-Bus")

	s.mu.Lock()
	s.dial = dial
	s.mu.Unlock()
	require.NoError(t, s.Ensure(t.Context(), Unit{Name: sfuName}))
	require.Len(t, f.called("StartUnit"), 1)

	s.Close()
	require.ErrorIs(t, s.Ensure(t.Context(), Unit{Name: "orama-turn"}), errClosed)
}

func TestSystemdAwaitsNoLostConnection(t *testing.T) {
	f, s := newFakeSystemd(t)
	f.unit(sfuUnit, func(u *fakeUnit) { u.result = "never" })
	failed := make(chan error, 1)
	go func() { failed <- s.Ensure(t.Context(), Unit{Name: sfuName}) }()
	require.Eventually(t, func() bool { return len(f.called("StartUnit")) == 1 }, 5*time.Second, 5*time.Millisecond)
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	conn.Close()
	require.ErrorIs(t, <-failed, errBusLost)
}
