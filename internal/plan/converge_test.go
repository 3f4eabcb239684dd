package plan

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// heard has every node's agent reach the records at a time, but those named.
func heard(c orama.Cluster, at time.Time, not ...orama.NodeID) orama.Cluster {
	c = deepCopy(c)
	for i, n := range c.Nodes {
		lost := false
		for _, id := range not {
			lost = lost || id == n.ID
		}
		if !lost {
			c.Nodes[i].Heartbeat = at
		}
	}
	return c
}

func seen(c orama.Cluster, node orama.NodeID, role orama.Role, s orama.State) orama.Cluster {
	c = deepCopy(c)
	for i, in := range c.Instances {
		if in.Node == node && in.Role == role {
			c.Instances[i].Observed.State = s
		}
	}
	return c
}

// running lists where a role is to run.
func running(c orama.Cluster, ns orama.NamespaceID, role orama.Role) []orama.NodeID {
	d := c
	d.Instances = nil
	for _, i := range c.Instances {
		if i.Desired == orama.DesiredRun {
			d.Instances = append(d.Instances, i)
		}
	}
	return where(d, ns, role)
}

func TestALostNodesRelayMovesAndIsForgottenWhenTheNewOneServes(t *testing.T) {
	c := seeAll(enable(t, hosts(3, "demo"), "demo"), orama.StateReady) // TURN on 1 and 2, SFU on all
	missed := Silence{"node-2": 9 * time.Minute}
	ch, reasons := Converge(heard(c, now.Add(9*time.Minute), "node-2"), now.Add(9*time.Minute), missed)
	require.True(t, Empty(ch), "who missed beats keeps its roles")
	require.Empty(t, reasons)

	lost, later := Silence{"node-2": 10 * time.Minute}, now.Add(10*time.Minute)
	c = heard(c, later, "node-2")
	_, any := Finish(c, "demo", lost)
	require.False(t, any, "nothing replaces it yet")
	ch, reasons = Converge(c, later, lost)
	require.Equal(t, "webrtc.moved", ch.Events[0].Kind)
	require.Equal(t, "turn leaves node-2, which is lost, turn on node-3", ch.Events[0].Detail)
	require.Equal(t, []string{"sfu of demo stays with node-2, which is lost: no other node can take it " +
		"(node-2: its agent is silent since 2026-11-22T12:00:00Z, or its clock is behind)"}, reasons)
	c = apply(t, c, ch)
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, running(c, "demo", orama.RoleTURN))
	require.Len(t, running(c, "demo", orama.RoleSFU), 3, "nobody can stand in for the third SFU")
	again, same := Converge(c, later, lost)
	require.True(t, Empty(again), "%+v", again)
	require.Equal(t, reasons, same)

	_, any = Finish(c, "demo", lost)
	require.False(t, any, "the new one was not seen ready")
	c = seen(c, "node-3", orama.RoleTURN, orama.StateReady)
	_, any = Finish(c, "demo", Silence{"node-2": time.Minute})
	require.False(t, any, "a node that came back says itself when its relay is gone")
	ch, any = Finish(c, "demo", lost)
	require.True(t, any)
	require.Len(t, ch.DeleteInstances, 1)
	c = apply(t, c, ch)
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, where(c, "demo", orama.RoleTURN))

	// Back again: it keeps its SFU, and nothing is doubled.
	c = heard(c, later.Add(time.Hour))
	ch, reasons = Converge(c, later.Add(time.Hour), Silence{})
	require.True(t, Empty(ch))
	require.Empty(t, reasons)
}

func TestMostNodesSilentAtOnceMovesNothing(t *testing.T) {
	c := seeAll(enable(t, hosts(3, "demo"), "demo"), orama.StateReady)
	c = heard(c, now.Add(time.Hour), "node-1", "node-2")
	ch, reasons := Converge(c, now.Add(time.Hour), Silence{"node-1": time.Hour, "node-2": time.Hour})
	require.True(t, Empty(ch))
	require.Equal(t, []string{"most nodes are silent at once (node-1, node-2): it is more likely the records or this node's clock, so nothing is moved"}, reasons)
	dis, err := Disable(c, "demo", now)
	require.NoError(t, err)
	_, any := Finish(apply(t, c, dis), "demo", Silence{"node-1": time.Hour, "node-2": time.Hour})
	require.False(t, any)
}

func TestALostNodeDoesNotHoldUpDisabling(t *testing.T) {
	c := enable(t, hosts(3, "demo"), "demo")
	dis, err := Disable(c, "demo", now)
	require.NoError(t, err)
	c = apply(t, c, dis)
	for _, n := range []orama.NodeID{"node-1", "node-2"} {
		c = seen(seen(c, n, orama.RoleTURN, orama.StateGone), n, orama.RoleSFU, orama.StateGone)
	}
	ch, any := Finish(c, "demo", nil)
	require.True(t, any)
	c = apply(t, c, ch)
	require.Len(t, c.Instances, 1)
	_, any = Finish(c, "demo", Silence{"node-3": 9 * time.Minute})
	require.False(t, any)
	ch, any = Finish(c, "demo", Silence{"node-3": 10 * time.Minute})
	require.True(t, any)
	require.Nil(t, apply(t, c, ch).Namespaces[0].WebRTC)
}

func TestWhatIsMissingComesWithCapacity(t *testing.T) {
	c := enable(t, hosts(1, "demo"), "demo")
	ch, reasons := Converge(c, now, nil)
	require.True(t, Empty(ch))
	require.Len(t, reasons, 2, "one for each role: %v", reasons)
	c.Nodes = append(c.Nodes, host(2), host(3))
	c.Nodes[2].Heartbeat = now.Add(-time.Minute)
	ch, reasons = Converge(c, now, nil)
	c = apply(t, c, ch)
	require.Len(t, where(c, "demo", orama.RoleTURN), 2)
	require.Len(t, where(c, "demo", orama.RoleSFU), 2)
	require.Len(t, reasons, 1)
	c.Nodes[2].Heartbeat = now
	ch, reasons = Converge(c, now, nil)
	require.Len(t, where(apply(t, c, ch), "demo", orama.RoleSFU), 3)
	require.Empty(t, reasons)
}

// A node whose clock is ahead looks alive long after it fell silent: the watcher knows better.
func TestAClockThatIsAheadHidesNobody(t *testing.T) {
	c := enable(t, hosts(3, "demo"), "demo")
	c.Nodes[1].Heartbeat = now.Add(time.Hour)
	c = seeAll(c, orama.StateReady)
	ch, _ := Converge(c, now, Silence{"node-2": 10 * time.Minute})
	c = apply(t, c, ch)
	require.Equal(t, []orama.NodeID{"node-1", "node-3"}, running(c, "demo", orama.RoleTURN))
	ch, reasons := Converge(c, now, Silence{"node-2": 10 * time.Minute})
	require.True(t, Empty(ch))
	require.Contains(t, reasons[0], "its clock is ahead")
}

func TestANodeThatWasRemovedIsLost(t *testing.T) {
	c := seeAll(enable(t, hosts(3, "demo"), "demo"), orama.StateReady)
	c.Nodes = c.Nodes[1:]
	ch, reasons := Converge(c, now, nil)
	for _, i := range ch.PutInstances {
		if i.Role == orama.RoleTURN && i.Desired == orama.DesiredRun {
			require.Equal(t, orama.NodeID("node-3"), i.Node)
		}
	}
	require.Len(t, ch.PutInstances, 2)
	require.Len(t, reasons, 1)
}

func TestWatch(t *testing.T) {
	var w Watch
	nodes := hosts(3).Nodes
	at := now
	// look lets time pass second by second; who is named stays silent.
	look := func(d time.Duration, quiet ...int) (s Silence) {
		for end := at.Add(d); at.Before(end); {
			at = at.Add(time.Second)
			for i := range nodes {
				nodes[i].Heartbeat = nodes[i].Heartbeat.Add(time.Second)
				for _, q := range quiet {
					if q == i {
						nodes[i].Heartbeat = nodes[i].Heartbeat.Add(-time.Second)
					}
				}
			}
			s = w.Look(nodes, at)
		}
		return s
	}
	lost := func(s Silence, i int) bool { return s.lost(orama.Cluster{Nodes: nodes}, nodes[i].ID) }

	nodes[2].Heartbeat = now.Add(-time.Hour) // silent when we came, or its clock is behind
	require.Zero(t, w.Look(nodes, at)["node-3"], "who just came knows nothing")
	s := look(9*time.Minute, 2)
	require.False(t, lost(s, 2))
	s = look(61*time.Second, 2)
	require.True(t, lost(s, 2))
	require.False(t, lost(s, 0))
	require.Zero(t, look(time.Second)["node-3"], "back, though an hour behind")

	s = look(9*time.Minute, 2)
	require.Zero(t, s["node-1"])
	at = at.Add(time.Minute) // nobody looked: the records were away
	require.Zero(t, w.Look(nodes, at)["node-3"])

	look(5*time.Minute, 2)
	s = look(time.Hour, 0, 1, 2) // the records take no heartbeats
	require.False(t, lost(s, 2))
	s = look(time.Minute, 2)
	require.False(t, lost(s, 2), "the first two are back, the third is on its way")
	require.True(t, lost(look(10*time.Minute, 2), 2))

	at = at.Add(-time.Hour) // our clock was set back
	require.Zero(t, w.Look(nodes, at)["node-3"])
}
