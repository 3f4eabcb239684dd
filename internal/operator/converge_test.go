package operator

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

// logged is an operator and what it logs.
func (w *world) logged() (*Operator, *lockedBuffer) {
	b := &lockedBuffer{}
	return New(Deps{Store: w, Keys: auth.NewKeys([32]byte{1}), BaseDomain: base, Log: slog.New(slog.NewTextHandler(b, nil))}), b
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// running runs operators, as each node has one, until the test ends.
func running(t *testing.T, os ...*Operator) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, o := range os {
		wg.Go(func() { require.NoError(t, o.Run(ctx)) })
	}
	return func() { cancel(); wg.Wait() }
}

func relays(c orama.Cluster, d orama.Desired) []orama.NodeID {
	var out []orama.NodeID
	for _, i := range instancesOf(c, "demo") {
		if i.Role == orama.RoleTURN && i.Desired == d {
			out = append(out, i.Node)
		}
	}
	return out
}

func TestALostNodesRelayMoves(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		first, log := w.logged()
		stop := running(t, first, w.operator(), w.operator())
		defer stop()
		w.set(func() { w.silent["node-2"] = true })
		commits := w.commits
		later(9 * time.Minute)
		require.Equal(t, commits, w.commits, "who missed beats keeps what it has")

		// The new relay does not come up: the old one is not forgotten.
		w.set(func() { w.broken["node-3/turn"] = "exit 1" })
		later(2 * time.Minute)
		c := w.look(t)
		require.Equal(t, []orama.NodeID{"node-1", "node-3"}, relays(c, orama.DesiredRun))
		require.Equal(t, []orama.NodeID{"node-2"}, relays(c, orama.DesiredStop))
		require.Len(t, instancesOf(c, "demo"), 6, "SFU: 3, of which one is lost and nobody can stand in")
		w.set(func() { delete(w.broken, "node-3/turn") })
		later(5 * time.Second)
		c = w.look(t)
		require.Empty(t, relays(c, orama.DesiredStop), "forgotten")
		for _, r := range c.DNS {
			require.NotEqual(t, "192.0.2.2", r.Value.String())
		}
		require.Len(t, c.DNS, 4)
		require.Equal(t, 1, log.count(`reason="sfu of demo stays with node-2, which is lost`), "each reason once")
		commits = w.commits
		later(10 * time.Minute)
		require.Equal(t, commits, w.commits)

		// It comes back, is reconciled, and nothing is doubled.
		w.set(func() { delete(w.silent, "node-2") })
		later(time.Minute)
		c = w.look(t)
		require.Equal(t, []orama.NodeID{"node-1", "node-3"}, relays(c, orama.DesiredRun))
		require.Len(t, instancesOf(c, "demo"), 5)
		require.Equal(t, 1, log.count(`"no longer left undone"`))
	}, "demo")
}

// It comes back after its relay was given away, before the other serves: it drains, and says that it is gone.
func TestALostNodeThatReturnsInBetween(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		stop := running(t, w.operator())
		defer stop()
		w.set(func() { w.silent["node-2"] = true; w.stuck["node-3"] = true })
		later(10*time.Minute + 5*time.Second)
		require.Equal(t, []orama.NodeID{"node-2"}, relays(w.look(t), orama.DesiredStop))
		w.set(func() { delete(w.silent, "node-2") })
		later(5 * time.Second)
		require.Empty(t, relays(w.look(t), orama.DesiredStop))
		w.set(func() { delete(w.stuck, "node-3") })
		later(5 * time.Second)
		require.Equal(t, []orama.NodeID{"node-1", "node-3"}, relays(w.look(t), orama.DesiredRun))
		require.Len(t, w.look(t).Instances, 5)
	}, "demo")
}

func TestAMinorityAndAnOutageChangeNothing(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		first, log := w.logged()
		stop := running(t, first)
		defer stop()
		before, commits := shape(w.look(t)), w.commits
		w.set(func() { w.silent["node-2"], w.silent["node-3"] = true, true })
		later(time.Hour)
		require.Equal(t, commits, w.commits)
		require.Equal(t, 1, log.count("most nodes are silent at once (node-2, node-3)"))
		w.set(func() { delete(w.silent, "node-3") })
		later(9 * time.Minute)
		require.Equal(t, before, shape(w.look(t)), "the time in which most were silent is not counted")

		w.set(func() { clear(w.silent); w.unread = errors.New("no leader") })
		later(time.Hour)
		w.set(func() { w.unread = nil; w.silent["node-2"] = true }) // the others are back first
		later(9 * time.Minute)
		require.Equal(t, before, shape(w.look(t)))
		require.Equal(t, commits, w.commits)
		require.Equal(t, 1, log.count("is not brought in order now"))
	}, "demo")
}

func TestWhatIsMissingComesWhenANodeDoes(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		w.set(func() { w.silent["node-2"], w.silent["node-3"] = true, true })
		later(16 * time.Second)
		s := mustEnable(t, o, "demo")
		require.Len(t, s.Instances, 2)
		require.Len(t, s.Missing, 2)
		stop := running(t, w.operator(), w.operator())
		defer stop()
		w.set(func() { delete(w.silent, "node-3") })
		later(3 * time.Second)
		require.Len(t, w.look(t).Instances, 4)
		w.set(func() { delete(w.silent, "node-2") })
		later(3 * time.Second)
		require.Len(t, w.look(t).Instances, 5)
		require.Len(t, w.look(t).DNS, 4)
		s, err := o.Status(t.Context(), "demo")
		require.NoError(t, err)
		require.Empty(t, s.Missing)
	}, "demo")
}

// A relay is placed and its node dies: what was begun is undone, as far as it can be at once, and the rest by itself.
func TestPlacedOnANodeThatDies(t *testing.T) {
	in(t, 2, func(t *testing.T, w *world, o *Operator) {
		stop := running(t, w.operator())
		defer stop()
		w.set(func() { w.broken["node-1/turn"] = "exit 1: no certificate" })
		_, err := o.EnableWebRTC(t.Context(), "demo", Options{Wait: 30 * time.Second}, func(s Step) {
			if s.Step == StepPorts {
				w.set(func() { w.silent["node-2"] = true })
			}
		})
		var e *orama.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "webrtc_not_ready", e.Code)
		require.Equal(t, "WebRTC could not be enabled for demo within 30s: node-1 turn is failed: exit 1: no certificate; "+
			"node-2 turn is unknown: its node's agent has not reported it yet; node-2 sfu is unknown: its node's agent has not reported it yet; "+
			"undoing it is under way and goes on by itself", e.Message)
		require.ErrorContains(t, err, "node-2 turn is unknown")
		c := w.look(t)
		require.Len(t, c.Instances, 2, "those of node-1 are gone, those of node-2 were not seen gone")
		_, err = o.EnableWebRTC(t.Context(), "demo", Options{}, nil)
		require.Equal(t, orama.KindConflict, orama.KindOf(err))
		later(10 * time.Minute)
		require.Equal(t, []string{"demo webrtc=false"}, shape(w.look(t)), "a node that stays away is not waited for for ever")
	}, "demo")
}

// After disabling, the events say that there was WebRTC until then, and nothing more.
func TestDisablingForgetsWhatHappened(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil))
		var kinds []string
		for _, e := range w.events {
			kinds = append(kinds, e.Kind)
			require.Empty(t, e.Detail)
		}
		require.Equal(t, []string{"namespace.created", "webrtc.disabled"}, kinds)
	}, "demo")
}
