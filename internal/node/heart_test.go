package node_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/manifest"
	"orama.network/orama/internal/node"
)

// meter is a machine whose measures a test sets.
type meter struct{ report *orama.NodeReport }

func (m meter) Report(context.Context) orama.NodeReport {
	r := *m.report
	r.Busy = slices.Clone(r.Busy)
	return r
}

func (w *world) lastBeat() orama.NodeReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.beat.Report
}

func TestTheHeartbeatSaysWhatTheNodeHas(t *testing.T) {
	w := newWorld()
	d := w.deps()
	d.Self.Report.Version = "v1"
	d.Machine = meter{&orama.NodeReport{CPUs: 4, Load: 0.5, Busy: []orama.PortRange{{First: 20400, Count: 700}, {First: 49900, Count: 2000}}}}
	w.relays = 7
	withDeps(t, w, d, func(t *testing.T, _ *node.Agent) {
		later(10 * time.Millisecond)
		r := w.lastBeat()
		require.Equal(t, "v1", r.Version)
		require.Equal(t, 4, r.CPUs)
		require.Equal(t, map[string]string{"store": "", "cache": "", "gateway": ""}, r.Checks)
		require.Equal(t, int64(1), r.State)
		require.Empty(t, r.Used)
		require.Len(t, r.Busy, 2)

		w.enable("alpha") // relay 49952-50751, media 20500-20999
		later(200 * time.Millisecond)
		r = w.lastBeat()
		require.Equal(t, w.cluster.Revision, r.State, "at once, not with the next beat")
		require.Equal(t, []orama.PortRange{{First: 20400, Count: 100}, {First: 21000, Count: 100}, {First: 49900, Count: 52}, {First: 50752, Count: 1148}},
			r.Busy, "what the records give to us is no stranger's")
		later(2 * time.Second)
		r = w.lastBeat()
		require.Equal(t, 7, r.Relays)
		require.ElementsMatch(t, []string{"turn/alpha", "sfu/alpha"}, slices.Collect(maps.Keys(r.Used)))

		w.stopInstances("alpha")
		later(200 * time.Millisecond)
		r = w.lastBeat()
		require.Equal(t, w.cluster.Revision, r.State)
		require.Empty(t, r.Used, "nothing of it is said any more")
		later(3 * time.Second)
		require.Zero(t, w.lastBeat().Relays)
	})
}

func TestAFileThatCannotBeSavedIsNotClaimed(t *testing.T) {
	w := newWorld()
	d := w.deps()
	save, full := d.Save, true
	d.Save = func(m manifest.State) error {
		if full {
			return errors.New("no space left on device")
		}
		return save(m)
	}
	withDeps(t, w, d, func(t *testing.T, _ *node.Agent) {
		later(3 * time.Second)
		require.Zero(t, w.lastBeat().State)
		require.Positive(t, w.beats)
		w.mu.Lock()
		full = false
		w.mu.Unlock()
		later(2 * time.Second)
		require.Equal(t, int64(1), w.lastBeat().State)
	})
}

// Whoever waits for a revision waits for the firewall too.
func TestAStateIsTheFirewallsToo(t *testing.T) {
	w := newWorld()
	d := w.deps()
	var walled atomic.Int64
	d.Walled = walled.Load
	withDeps(t, w, d, func(t *testing.T, a *node.Agent) {
		later(3 * time.Second)
		require.Positive(t, w.beats)
		require.Zero(t, w.lastBeat().State)
		walled.Store(1)
		a.Beat()
		later(time.Millisecond)
		require.Equal(t, int64(1), w.lastBeat().State)
	})
}

func TestChecksAreTheNodesOwn(t *testing.T) {
	w := newWorld()
	d := w.deps()
	d.Checks = func() map[string]string { return nil }
	withDeps(t, w, d, func(t *testing.T, _ *node.Agent) {
		later(3 * time.Second)
		require.Equal(t, map[string]string{"store": ""}, w.lastBeat().Checks, "what was not looked at is not said to serve")
	})
}

// A node that cannot read the records does not look alive, and what it says when it can again rests on a new reading.
func TestNoHeartbeatWhileTheRecordsCannotBeRead(t *testing.T) {
	w := newWorld()
	d := w.deps()
	d.Machine = meter{&orama.NodeReport{Busy: []orama.PortRange{{First: 20500, Count: 1}}}}
	withDeps(t, w, d, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(3 * time.Second)
		require.Empty(t, w.lastBeat().Busy)
		w.mu.Lock()
		w.unread = true
		w.mu.Unlock()
		later(2 * time.Second)
		beats := w.beats
		later(time.Minute)
		require.Equal(t, beats, w.beats)

		w.change(func(c *orama.Cluster) { c.Instances = nil }) // its roles were given away
		w.mu.Lock()
		w.unread, w.beat = false, orama.Node{}
		w.mu.Unlock()
		later(150 * time.Millisecond)
		require.Equal(t, []orama.PortRange{{First: 20500, Count: 1}}, w.lastBeat().Busy, "it still runs, and nobody may be put there")
		later(3 * time.Second)
		require.Empty(t, w.units, "what has no record is stopped")
	})
}

func TestManyStrangersAreReportedInFewRanges(t *testing.T) {
	w := newWorld()
	d := w.deps()
	var busy []orama.PortRange
	for p := 49152; p < 65535; p += 3 {
		busy = append(busy, orama.PortRange{First: uint16(p), Count: 1})
	}
	d.Machine = meter{&orama.NodeReport{Busy: busy}}
	withDeps(t, w, d, func(t *testing.T, _ *node.Agent) {
		later(time.Second)
		got := w.lastBeat().Busy
		require.NotEmpty(t, got)
		require.LessOrEqual(t, len(got), 256)
		for _, b := range busy {
			require.True(t, slices.ContainsFunc(got, func(r orama.PortRange) bool { return r.Contains(b.First) }))
		}
	})
}

// A running SFU keeps its ports. One that was given others while its node was away is made anew, once.
func TestAnSFUThatCannotBecomeWhatIsWantedIsMadeAnew(t *testing.T) {
	w := newWorld()
	within(t, w, func(t *testing.T, _ *node.Agent) {
		w.enable("alpha")
		later(time.Second)
		old := w.process(orama.RoleSFU, "alpha").boot
		w.change(func(c *orama.Cluster) {
			for i := range c.Instances {
				if c.Instances[i].Role == orama.RoleSFU {
					c.Instances[i].Ports.Media.First += 500
				}
			}
		})
		later(3 * time.Second)
		p := w.process(orama.RoleSFU, "alpha")
		require.NotEqual(t, old, p.boot)
		require.Equal(t, uint16(21000), p.sfu.MediaPort)
		require.Equal(t, orama.StateReady, w.last["sfu/alpha"].State)

		w.mu.Lock()
		w.refuse = errors.New("the configuration makes no sense")
		w.mu.Unlock()
		w.change(func(c *orama.Cluster) {
			c.Namespaces[0].WebRTC = &orama.WebRTCConfig{SealedSecret: "other", CredentialTTL: time.Minute}
		})
		later(time.Minute)
		require.LessOrEqual(t, w.boots, 4, "it is not made anew for ever")
		require.Equal(t, orama.StateFailed, w.last["sfu/alpha"].State)
	})
}
