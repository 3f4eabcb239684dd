//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// instance is one line of webrtc-status.
type instance struct {
	Namespace string    `json:"namespace"`
	Node      string    `json:"node"`
	Role      string    `json:"role"`
	State     string    `json:"state"`
	Detail    string    `json:"detail"`
	Since     time.Time `json:"since"` // first seen in this state without a break
	Ports     struct {
		Relay  ports `json:"relay"`
		Signal ports `json:"signal"`
		Media  ports `json:"media"`
	} `json:"ports"`
}

type ports struct {
	First int `json:"first"`
	Count int `json:"count"`
}

func (c *cluster) instances(t testing.TB, namespace string) []instance {
	t.Helper()
	var status struct {
		Enabled   bool       `json:"enabled"`
		Instances []instance `json:"instances"`
	}
	c.do(t, &status, "namespace", "webrtc-status", "--namespace", namespace)
	return status.Instances
}

// allReady waits until every instance of the namespace was observed ready; the one of the node and role, anew
// since a moment.
func (c *cluster) allReady(t testing.TB, namespace, node, role string, since time.Time) {
	t.Helper()
	eventually(t, 20*time.Second, func() string {
		for _, in := range c.instances(t, namespace) {
			if in.State != "ready" {
				return fmt.Sprintf("%s on %s is %s: %s", in.Role, in.Node, in.State, in.Detail)
			}
			if in.Node == node && in.Role == role && in.Since.Before(since) {
				return fmt.Sprintf("%s on %s is said to be ready without a break since %v", in.Role, in.Node, in.Since)
			}
		}
		return ""
	})
}

// units asks a node's agent which processes it watches: their pids by kind and namespace. Nil while there is no answer.
func (c *cluster) units(t testing.TB, node string) map[string]int {
	t.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(c.dir, node, "agent.sock"))
		},
	}}
	res, err := client.Get("http://agent/v1/node")
	if err != nil {
		return nil
	}
	defer res.Body.Close()
	var body struct{ Units []process }
	require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
	out := map[string]int{}
	for _, u := range body.Units {
		out[u.Kind+" "+u.Namespace] = u.PID
	}
	return out
}

// owner asks the gateways which node's SFU has the room.
func (c *cluster) owner(t testing.TB, room string) string {
	t.Helper()
	for _, gateway := range c.Gateways {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gateway+"/v1/webrtc/rooms", nil)
		require.NoError(t, err)
		req.Header.Set("X-API-Key", c.OwnerKey)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // this gateway may be the one that was killed
		}
		var body struct {
			Rooms []struct {
				RoomID  string `json:"room_id"`
				SFUNode string `json:"sfu_node"`
			} `json:"rooms"`
		}
		err = json.NewDecoder(res.Body).Decode(&body)
		res.Body.Close()
		require.NoError(t, err)
		for _, r := range body.Rooms {
			if r.RoomID == room {
				return r.SFUNode
			}
		}
		return ""
	}
	return ""
}

func (c *cluster) nodeAt(t testing.TB, address string) string {
	t.Helper()
	for _, n := range c.Nodes {
		if n.PublicIP == address || n.MeshIP == address {
			return n.ID
		}
	}
	t.Fatalf("no node has the address %q", address)
	return ""
}

// Processes die one at a time while three people talk, and nobody has to do anything.
func TestKill(t *testing.T) {
	c := up(t)
	m := c.meeting(t, c.Namespace, "kill")
	m.enter(chromium, "ada")
	m.enter(chromium, "bob")
	m.enter(firefox, "cleo")
	m.allMeet(20 * time.Second)
	t.Run("agent", func(t *testing.T) { killAgent(t, c, m) })
	t.Run("drain", func(t *testing.T) { drainSFU(t, c, m) })
	t.Run("sfu", func(t *testing.T) { killSFU(t, c, m) })
	t.Run("turn", func(t *testing.T) { killTURN(t, c, m) })
	t.Run("rolling", func(t *testing.T) { rolling(t, c, m) }) // the last: relays that were handed over live on in processes of before
}

// The agent and gateway of the node that people's sockets go through: media has no gap, sockets are resumed, and
// the relay and SFU processes live on and are adopted.
func killAgent(t testing.TB, c *cluster, m *meeting) {
	m.in(t)
	node := c.Nodes[0].ID
	before := c.units(t, node)
	require.NotEmpty(t, before)
	m.watch()
	killed := kill(t, c.pid(t, "node", node))
	for _, p := range m.people {
		back := p.until(10*time.Second, "the socket is resumed", "__probe.resumed(args[0])", float64(at(killed)))
		took := back.since(at(killed))
		t.Logf("%s resumed its socket %s after the kill", p.user, ms(took))
		if took >= 3*time.Second {
			require.Less(t, took, held(t, 3*time.Second, killed), "%s: the socket came back too late", p.user)
		}
	}
	var after map[string]int
	took := eventually(t, 10*time.Second, func() string {
		if len(named(t, " node run ", "/"+node+"/")) != 1 {
			return "the agent of " + node + " is not there"
		}
		if after = c.units(t, node); len(after) < len(before) {
			return fmt.Sprintf("the agent of %s knows of %v only", node, after)
		}
		return ""
	})
	t.Logf("the agent was started again and has its processes %v within %s", after, ms(took))
	require.Equal(t, before, after, "the relay and SFU processes live on and are adopted")
	for key, pid := range after {
		require.True(t, alive(pid), key)
	}
	c.allReady(t, c.Namespace, "", "", killed)
	m.people[0].until(10*time.Second, "long enough watched to see a late consequence", "__probe.gaps().watched > 4000")
	m.gaps(time.Second)
	m.chat()
}

// The SFU that has the room is asked to end, as an upgrade does it: everybody is at its new place before they leave the
// old one, nobody is missed meanwhile, and it ends as soon as they have gone.
func drainSFU(t testing.TB, c *cluster, m *meeting) {
	m.in(t)
	node := c.owner(t, m.room)
	require.NotEmpty(t, node)
	m.watch()
	pid := c.pid(t, "sfu", node)
	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	asked := time.Now()
	for _, p := range m.people {
		there := p.until(15*time.Second, "everybody is seen at the new place",
			"__probe.gaps().lag < 500 && __probe.freshSince(args[0], args[1])", float64(at(asked)), len(m.people)-1)
		t.Logf("%s sees everybody at the new place after %s", p.user, ms(there.since(at(asked))))
	}
	took := eventually(t, 15*time.Second, func() string {
		if alive(pid) {
			return "the SFU is still there"
		}
		return ""
	})
	t.Logf("the SFU has ended %s after that", ms(took))
	require.NotEqual(t, node, c.owner(t, m.room), "the room did not move")
	for _, p := range m.people {
		p.until(10*time.Second, "long enough watched to see a late consequence", "__probe.gaps().watched > 4000")
		var wrong []any
		p.eval(&wrong, "return participant.events.filter((e) => e.at > args[0] && (e.state || e.reason !== 'moved'))", float64(at(asked)))
		if len(wrong) > 0 && held(t, time.Second, asked) == time.Second {
			t.Errorf("%s: the application saw of the move: %v", p.user, wrong)
		}
	}
	limit := 500 * time.Millisecond
	if held(t, limit, asked) > limit { // who has no CPU for two calls at once may still be on the way when the drain is over
		limit *= 5
	}
	m.gaps(limit)
	c.allReady(t, c.Namespace, node, "sfu", asked)
	m.allMeet(5 * time.Second)
	m.chat()
}

// Every node in turn gets what an upgrade does to it: its relay hands over, its SFU drains and is started again, its agent and gateway too. The call goes
// on, and the application sees nothing of it.
func rolling(t testing.TB, c *cluster, m *meeting) {
	m.in(t)
	m.watch()
	began := time.Now()
	for _, n := range c.Nodes {
		step := time.Now()
		units := c.units(t, n.ID)
		if turn := units["turn "]; turn != 0 {
			require.NoError(t, syscall.Kill(turn, syscall.SIGUSR2))
			eventually(t, 10*time.Second, func() string {
				for _, pid := range named(t, " turn run ", "/"+n.ID+"/") {
					if pid != turn {
						return ""
					}
				}
				return "the relay of " + n.ID + " has not handed over"
			})
		}
		sfu := units["sfu "+c.Namespace]
		require.NotZero(t, sfu)
		require.NoError(t, syscall.Kill(sfu, syscall.SIGTERM))
		eventually(t, 15*time.Second, func() string {
			if alive(sfu) {
				return "the SFU of " + n.ID + " is still there"
			}
			return ""
		})
		c.allReady(t, c.Namespace, n.ID, "sfu", step)
		before := c.units(t, n.ID)
		kill(t, c.pid(t, "node", n.ID))
		eventually(t, 10*time.Second, func() string {
			if after := c.units(t, n.ID); len(after) < len(before) {
				return fmt.Sprintf("the agent of %s knows of %v only", n.ID, after)
			}
			return ""
		})
		c.allReady(t, c.Namespace, "", "", step)
		t.Logf("%s is done after %s; the room is on %s", n.ID, ms(time.Since(step)), c.owner(t, m.room))
	}
	limit := 500 * time.Millisecond
	for _, p := range m.people {
		p.until(15*time.Second, "everybody is seen", "__probe.gaps().lag < 500")
		var wrong []any
		p.eval(&wrong, "return participant.events.filter((e) => e.at > args[0] && e.reason && e.reason !== 'moved')", float64(at(began)))
		if len(wrong) > 0 && held(t, time.Second, began) == time.Second {
			t.Errorf("%s: the application saw of it: %v", p.user, wrong)
		}
	}
	if held(t, limit, began) > limit {
		limit *= 5
	}
	m.gaps(limit)
	m.allMeet(5 * time.Second)
	m.chat()
}

// The SFU that has the room: its people meet again on another node, and it is started again, by
// an agent that did not start it the first time.
func killSFU(t testing.TB, c *cluster, m *meeting) {
	m.in(t)
	var node string
	eventually(t, 5*time.Second, func() string {
		if node = c.owner(t, m.room); node == "" {
			return "the room has no owner"
		}
		return ""
	})
	m.watch()
	pid := c.pid(t, "sfu", node)
	killed := kill(t, pid)
	for _, p := range m.people {
		back := p.until(15*time.Second, "everybody is seen and heard again after the kill",
			"__probe.gaps().lag < 500 && __probe.freshSince(args[0], args[1])", float64(at(killed)), len(m.people)-1)
		took := back.since(at(killed))
		t.Logf("%s sees and hears everybody again %s after the kill", p.user, ms(took))
		if took >= 5*time.Second {
			require.Less(t, took, held(t, 5*time.Second, killed), "%s: media came back too late", p.user)
		}
	}
	require.NotEqual(t, node, c.owner(t, m.room), "the room did not move")
	c.allReady(t, c.Namespace, node, "sfu", killed)
	require.NotEqual(t, pid, c.pid(t, "sfu", node))
	m.gaps(5 * time.Second)
	m.allMeet(5 * time.Second)
	m.chat()
}

// The relay that carries somebody's media: media comes again through the other one, or through a new
// allocation on the one started again.
func killTURN(t testing.TB, c *cluster, m *meeting) {
	m.in(t)
	relay := m.pairs(m.people[2])[0].Relay // Firefox's: of the two browsers the one that is slower to come back
	node := c.nodeAt(t, relay)
	var through []string
	for _, p := range m.people {
		if m.pairs(p)[0].Relay == relay {
			through = append(through, p.user)
		}
	}
	t.Logf("the relay of %s carries %s", node, strings.Join(through, ", "))
	require.True(t, slices.Contains(through, m.people[2].user))
	m.watch()
	pid := c.pid(t, "turn", node)
	killed := kill(t, pid)
	for _, p := range m.people {
		// Long enough to see a gap of more than the limit to its end.
		p.until(20*time.Second, "six seconds watched, and everybody is seen", "__probe.gaps().watched > 6000 && __probe.gaps().lag < 500")
	}
	m.gaps(5 * time.Second)
	m.allMeet(5 * time.Second)
	m.chat()
	require.NotEqual(t, pid, c.pid(t, "turn", node))
	c.allReady(t, c.Namespace, node, "turn", killed)
}
