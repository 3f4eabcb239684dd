package operator

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

func lacks(part, why string) map[string]string {
	m := map[string]string{"store": "", "cache": "", "gateway": ""}
	m[part] = why
	return m
}

func steps(into *[]string, of string) func(Step) {
	return func(s Step) {
		if text := s.String(); text != "" && s.Step == of {
			*into = append(*into, text)
		}
	}
}

func TestAMissingPartIsNamedAndOneNodeIsEnough(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		w.set(func() {
			w.checks["node-1"] = lacks("cache", "10.0.0.1:3320: connection refused")
			w.checks["node-2"] = lacks("gateway", "no answer")
		})
		var said []string
		_, err := o.EnableWebRTC(t.Context(), "demo", Options{}, steps(&said, StepPrerequisites))
		require.NoError(t, err)
		require.ElementsMatch(t, []string{
			"prerequisites on node-1 failed: the cache does not serve: 10.0.0.1:3320: connection refused; see that it runs there and answers on the mesh",
			"prerequisites on node-2 failed: the gateway does not serve: no answer; see that its port is free, and look at the agent's log there",
			"prerequisites on node-3: store, cache and gateway serve"}, said)
		require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil))

		w.set(func() { w.checks["node-3"] = lacks("cache", "out of memory") })
		later(tick)
		before := shape(w.look(t))
		_, err = o.EnableWebRTC(t.Context(), "demo", Options{}, nil)
		var e *orama.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, orama.KindUnavailable, e.Kind)
		require.Equal(t, "prerequisite_missing", e.Code)
		for _, each := range []string{"node-1: the cache does not serve", "node-2: the gateway does not serve", "node-3: the cache does not serve: out of memory"} {
			require.Contains(t, e.Message, each)
		}
		require.Equal(t, before, shape(w.look(t)), "nothing was begun")
	}, "demo")
}

func TestAStoreThatCannotBeWrittenIsNamed(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		lost := &orama.Error{Kind: orama.KindUnavailable, Code: "store_unavailable", Message: "no leader"}
		w.set(func() { w.before = func(orama.Change) error { return lost } })
		_, err := o.EnableWebRTC(t.Context(), "demo", Options{}, nil)
		var e *orama.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "prerequisite_missing", e.Code)
		require.Contains(t, e.Message, "the store cannot be written")
		require.ErrorIs(t, err, lost)
		w.set(func() { w.before = nil; w.unread = lost })
		_, err = o.EnableWebRTC(t.Context(), "demo", Options{}, nil)
		require.ErrorAs(t, err, &e)
		require.Equal(t, "prerequisite_missing", e.Code)
		w.set(func() { w.unread = nil })
		require.Equal(t, []string{"demo webrtc=false"}, shape(w.look(t)))
	}, "demo")
}

// What a node has not said yet is not known: it is waited for, and in the end it is named.
func TestNodesThatHaveNotAnsweredAreWaitedFor(t *testing.T) {
	in(t, 2, func(t *testing.T, w *world, o *Operator) {
		w.set(func() { w.checks["node-1"], w.checks["node-2"] = map[string]string{}, map[string]string{} })
		later(tick)
		go func() {
			later(3 * time.Second)
			w.set(func() { w.checks["node-2"] = map[string]string{"store": "", "gateway": ""} })
			later(3 * time.Second)
			w.set(func() { clear(w.checks) })
		}()
		began := time.Now()
		_, err := o.EnableWebRTC(t.Context(), "demo", Options{}, nil)
		require.NoError(t, err)
		require.InDelta(t, 6, time.Since(began).Seconds(), 1)
		require.NoError(t, o.DisableWebRTC(t.Context(), "demo", nil))

		w.set(func() { w.checks["node-1"], w.checks["node-2"] = map[string]string{}, map[string]string{} })
		later(tick)
		_, err = o.EnableWebRTC(t.Context(), "demo", Options{Wait: 5 * time.Second}, nil)
		require.ErrorContains(t, err, "there is none: node-1: its agent has not answered yet; look at its log; node-2:")
		w.set(func() { delete(w.checks, "node-2") })
		var said []string
		_, err = o.EnableWebRTC(t.Context(), "demo", Options{Wait: 5 * time.Second}, steps(&said, StepPrerequisites))
		require.NoError(t, err, "one that serves is enough in the end")
		require.Contains(t, said, "prerequisites on node-1 failed: its agent has not answered yet; look at its log")
	}, "demo")
}

func TestSilentNodesAreNamedAndNotWaitedFor(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		w.set(func() { w.silent["node-3"] = true })
		later(16 * time.Second)
		var said, state []string
		began := time.Now()
		s, err := o.EnableWebRTC(t.Context(), "demo", Options{}, func(st Step) {
			steps(&said, StepPrerequisites)(st)
			steps(&state, StepState)(st)
		})
		require.NoError(t, err)
		require.Less(t, time.Since(began), 5*time.Second)
		require.Len(t, s.Instances, 4, "nothing is placed on it")
		require.Len(t, said, 3)
		require.Contains(t, said[0]+said[1]+said[2], "prerequisites on node-3 failed: its agent is silent since 2000-01-01T00:00:00Z, or its clock is behind; start it, or look at its log")
		require.Contains(t, state, "state on node-3 failed: its agent is silent; cluster_state.json is saved when it is back")
	}, "demo")
}

// A namespace that has all it wants is not checked: nothing is placed.
func TestWhereNothingIsPlacedNothingIsChecked(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		mustEnable(t, o, "demo")
		w.set(func() {
			for _, n := range []orama.NodeID{"node-1", "node-2", "node-3"} {
				w.checks[n] = lacks("gateway", "no answer")
			}
			w.before = func(orama.Change) error { return errors.New("nothing is to be written") }
		})
		later(tick)
		mustEnable(t, o, "demo")
	}, "demo")
}

// The state files are seen saved, or it is said that they were not.
func TestTheStateFilesAreSeen(t *testing.T) {
	in(t, 3, func(t *testing.T, w *world, o *Operator) {
		var state []string
		_, err := o.EnableWebRTC(t.Context(), "demo", Options{Wait: 10 * time.Second}, func(s Step) {
			if s.Step == StepPorts {
				w.set(func() { w.diskless = "node-2" })
			}
			steps(&state, StepState)(s)
		})
		require.NoError(t, err)
		require.Equal(t, []string{"state on node-1: cluster_state.json is saved", "state on node-3: cluster_state.json is saved",
			"state on node-2 failed: cluster_state.json was not saved yet, or the firewall does not follow it; look at its agent's log"}, state)
	}, "demo")
}
