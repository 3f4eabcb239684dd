package testnet

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/client"
)

// target is where a gateway sends people whose room's record names an SFU.
func (n *Net) target(k int) Target {
	return Target{Namespace: Alpha, Node: orama.NodeID(fmt.Sprintf("sfu-%d", k)), Boot: n.SFU(Alpha, k).Status().Boot, Signal: n.Signal(Alpha, k)}
}

// split has two people in a room on one SFU, and a third in the same room on another: what a partition leaves when two
// gateways could not see the same SFUs. The record names the second.
func split(t *testing.T) (n *Net, alice, bob, carol *bot) {
	t.Helper()
	n = start(t, Options{SFUNodes: 2})
	n.Gateway.Direct(n.target(0))
	alice, bob = pair(t, n)
	n.Gateway.Direct(n.target(1))
	carol = n.join(t, "carol")
	carol.play("audio", "video")
	carol.connected()
	require.Empty(t, carol.Peers(), "she is alone")
	return n, alice, bob, carol
}

// together waits until everybody sees and hears everybody, on the SFU of the record alone.
func together(t *testing.T, n *Net, all ...*bot) {
	t.Helper()
	for _, b := range all {
		b.until(patience, "everybody", func() bool {
			names := []string{b.name}
			for _, p := range b.Peers() {
				names = append(names, p.Name)
			}
			slices.Sort(names)
			return slices.Equal(names, []string{"alice", "bob", "carol"})
		})
		b.connected()
	}
	for _, b := range all {
		for _, o := range all {
			if o != b {
				b.hears(o.PeerID(), 2, "audio", "video")
			}
		}
	}
	require.Eventually(t, func() bool {
		for _, r := range n.SFU(Alpha, 0).Status().Rooms {
			if r.Peers > 0 {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond, "nobody is left on the other SFU")
}

// The SFU that the record does not name sends its people away, and they meet the others where it does.
func TestASplitRoomEndsInOne(t *testing.T) {
	n, alice, bob, carol := split(t)
	began := time.Now()
	require.True(t, n.SFU(Alpha, 0).MoveRoom("daily", "the room has moved", 5*time.Second))
	together(t, n, alice, bob, carol)
	t.Logf("together %s after the room was moved", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), soon)
	for _, b := range []*bot{alice, bob} {
		b.mu.Lock()
		asked := slices.ContainsFunc(b.events, func(e client.Event) bool {
			d, ok := e.(client.Draining)
			return ok && d.Reason == "the room has moved"
		})
		b.mu.Unlock()
		require.True(t, asked, "%s was told", b.name)
	}
}

// A gateway that reads the records cuts its sockets at the same time. Whichever comes first, it ends in one room.
func TestASplitRoomWhoseSocketsAreCutEndsInOne(t *testing.T) {
	n, alice, bob, carol := split(t)
	n.Gateway.Cut()
	require.True(t, n.SFU(Alpha, 0).MoveRoom("daily", "the room has moved", time.Second))
	together(t, n, alice, bob, carol)
}
