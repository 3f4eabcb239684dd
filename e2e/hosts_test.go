//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const labDomain = "orama.example"

// form makes a cluster of the lab's hosts as an operator would: init on the first, join on the others.
func (l *lab) form(t testing.TB) {
	t.Helper()
	first := l.hosts[0]
	var made struct {
		Token string `json:"token"`
	}
	args := []string{"--base-domain", labDomain, "--dns", "serve", "--mesh", "userspace", "--firewall", "ufw", "--json"}
	if l.store != nil {
		args = append(args, "--store", l.storeURLs())
	}
	out := first.must(t, l.hostArgs(first, "init", args...)...)
	require.NoError(t, json.Unmarshal([]byte(out), &made), out)
	require.NotEmpty(t, made.Token)
	first.start(t)
	for i, h := range l.hosts[1:] {
		token := made.Token
		if i > 0 {
			eventually(t, 20*time.Second, func() string {
				out, errs, code := first.orama(t, "node", "invite", "--config", first.config(), "--json")
				if code != 0 {
					return errs + out
				}
				require.NoError(t, json.Unmarshal([]byte(out), &made))
				return ""
			})
			token = made.Token
		}
		eventually(t, 20*time.Second, func() string {
			out, errs, code := h.orama(t, l.hostArgs(h, "join", "--token", token)...)
			if code != 0 {
				return errs + out + first.tail()
			}
			return ""
		})
		h.start(t)
	}
}

func (h *labHost) config() string { return filepath.Join(h.dir, "node.yaml") }

func (l *lab) hostArgs(h *labHost, verb string, more ...string) []string {
	return append([]string{"node", verb, "--config", h.config(), "--node", h.name, "--public-ip", h.public,
		"--mesh-interface", "wg-" + h.name, "--zone", "zone-" + h.name, "--supervisor", "child"}, more...)
}

// cluster makes the lab what the tests of a call know.
func (l *lab) cluster(t testing.TB) *cluster {
	t.Helper()
	site := listenIn(t, l.client, "127.0.0.1:8000")
	srv := &http.Server{Handler: http.FileServer(http.Dir(".")), ReadHeaderTimeout: 5 * time.Second}
	go srv.Serve(site) //nolint:errcheck // ends with Close
	t.Cleanup(func() { srv.Close() })
	c := &cluster{dir: l.hosts[0].dir, host: l.hosts[0], driver: startDriver(t, l.client), site: "http://127.0.0.1:8000"}
	t.Cleanup(c.driver.close)
	c.Namespace = "myapp"
	c.Gateways = []string{"https://ns-myapp." + labDomain}
	return c
}

// Three hosts with WireGuard between them, and clients who can reach their public addresses only: everything that an
// operator does, from the first command to a call, and what goes wrong.
func TestHosts(t *testing.T) {
	l := newLab(t)
	if _, err := exec.LookPath("rqlited"); err == nil {
		t.Log("the records are kept by rqlited on each host")
	} else {
		t.Log("rqlited is not on the PATH: a stand-in keeps the records")
		l.serveRecords(t)
	}
	begun := time.Now()
	l.form(t)
	first := l.hosts[0]
	eventually(t, 30*time.Second, func() string {
		out, errs, code := first.orama(t, "namespace", "create", "myapp", "--json")
		if code != 0 && !strings.Contains(out, "namespace_exists") {
			return errs + out + first.tail()
		}
		return ""
	})
	first.must(t, "namespace", "origins", "myapp", "http://127.0.0.1:8000")
	eventually(t, 20*time.Second, func() string {
		var report struct {
			Nodes []struct {
				ID    string `json:"id"`
				Alive bool   `json:"alive"`
			} `json:"nodes"`
		}
		out, errs, _ := first.orama(t, "monitor", "report")
		if json.Unmarshal([]byte(out), &report) != nil || len(report.Nodes) != len(l.hosts) {
			return errs + out
		}
		for _, n := range report.Nodes {
			if !n.Alive {
				return n.ID + " is not alive"
			}
		}
		return ""
	})
	t.Logf("three hosts set up, started and heard within %s", ms(time.Since(begun)))
	begun = time.Now()
	steps := first.must(t, "namespace", "enable", "webrtc", "--namespace", "myapp")
	t.Logf("WebRTC enabled in %s:\n%s", ms(time.Since(begun)), steps)

	c := l.cluster(t)
	t.Run("call", func(t *testing.T) { l.call(t, c) })
	t.Run("inspector", func(t *testing.T) { l.inspect(t) })
	t.Run("isolation", func(t *testing.T) { l.isolation(t) })
	t.Run("dig", func(t *testing.T) { l.dig(t) })
	t.Run("lose", func(t *testing.T) { l.lose(t, c) })
	t.Run("partition", func(t *testing.T) { l.partition(t) })
	// Last: a relay may be at another host after it, and until its name's time to live is over a browser looks for it at the old one.
	t.Run("disable", func(t *testing.T) { l.disable(t) })
}

// call is two browsers in the client's namespace who see and hear each other through TURN on public addresses, and
// from there over WireGuard to the SFU.
func (l *lab) call(t *testing.T, c *cluster) {
	m := c.meeting(t, c.Namespace, "hosts")
	m.enter(chromium, "ada")
	m.enter(chromium, "bob")
	m.allMeet(20 * time.Second)
	for _, p := range m.people {
		for _, x := range m.pairs(p) {
			t.Logf("%s: %s to the relay at %s, from there to %s", p.user, x.RelayProtocol, x.Relay, x.SFU)
			require.True(t, strings.HasPrefix(x.SFU, "10.0.0."), "an SFU outside the mesh: %s", x.SFU)
		}
	}
	m.chat()
}

// inspect finds nothing wrong with what was just set up.
func (l *lab) inspect(t *testing.T) {
	eventually(t, 20*time.Second, func() string {
		out, errs, code := l.hosts[1].orama(t, "inspector")
		if code != 0 {
			return out + errs
		}
		return ""
	})
}

// isolation: who can reach the public addresses cannot reach the mesh, though he sends its packets to a host.
func (l *lab) isolation(t *testing.T) {
	for _, h := range l.hosts {
		in(t, l.client, fmt.Sprintf("ip route replace 10.0.0.0/24 via %s", h.public))
		for _, other := range l.hosts {
			for _, port := range []string{"30000", "4001"} {
				_, err := within(l.client, func() (net.Conn, error) {
					return (&net.Dialer{Timeout: 500 * time.Millisecond}).Dial("tcp", net.JoinHostPort(other.mesh, port))
				})
				require.Error(t, err, "%s:%s through %s", other.mesh, port, h.name)
			}
		}
	}
	in(t, l.client, "ip route del 10.0.0.0/24")
}

// dig asks the cluster's own name server, from outside.
func (l *lab) dig(t *testing.T) {
	ask := func(h *labHost, args string) string {
		return strings.TrimSpace(in(t, l.client, "dig +time=2 +tries=1 +norecurse @"+h.public+" "+args))
	}
	var relays []string
	for _, h := range l.hosts {
		got := strings.Fields(ask(h, "+short turn.ns-myapp."+labDomain+" A"))
		slices.Sort(got)
		require.Len(t, got, 2, "the relays' addresses, from %s", h.name)
		if relays == nil {
			relays = got
		}
		require.Equal(t, relays, got, "every name server says the same")
	}
	one := ask(l.hosts[0], "+short turn-1.ns-myapp."+labDomain+" A")
	require.Contains(t, relays, one)
	require.Len(t, strings.Fields(ask(l.hosts[0], "+short +tcp ns-myapp."+labDomain+" A")), 3, "a gateway on each host")
	require.Contains(t, ask(l.hosts[1], labDomain+" SOA"), "flags: qr aa")
	require.Len(t, strings.Split(ask(l.hosts[0], "+short "+labDomain+" NS"), "\n"), 3)
	require.Contains(t, ask(l.hosts[2], "nothing."+labDomain+" A"), "status: NXDOMAIN")
	require.Contains(t, ask(l.hosts[2], "example.org A"), "status: REFUSED")
}

// instancesAre waits until webrtc-status shows as many ready relays and SFUs, and no other.
func (l *lab) instancesAre(t testing.TB, on *labHost, within time.Duration, turn, sfu int) time.Duration {
	t.Helper()
	return eventually(t, within, func() string {
		var status struct{ Instances []instance }
		out, errs, code := on.orama(t, "namespace", "webrtc-status", "--namespace", "myapp", "--json")
		if code != 0 || json.Unmarshal([]byte(out), &status) != nil {
			return errs + out
		}
		ready := map[string]int{}
		for _, i := range status.Instances {
			if i.State == "ready" && i.Since.After(l.rebooted) { // what was seen before is no news
				ready[i.Role]++
			}
		}
		if ready["turn"] != turn || ready["sfu"] != sfu {
			return out
		}
		return ""
	})
}

// lose takes a host away while people talk through it: power and network at once.
func (l *lab) lose(t *testing.T, c *cluster) {
	m := c.meeting(t, c.Namespace, "lose")
	m.enter(chromium, "ada")
	m.enter(chromium, "bob")
	m.allMeet(20 * time.Second)
	lost := l.carrier(t, m)
	m.watch()
	lost.dies(t)
	died := time.Now()
	for _, p := range m.people {
		p.until(20*time.Second, "six seconds watched, and everybody is seen", "__probe.gaps().watched > 6000 && __probe.gaps().lag < 500")
	}
	for _, p := range m.people {
		t.Logf("%s, %d ms after the loss: %s", p.user, time.Since(died).Milliseconds(), p.state())
	}
	m.gaps(5 * time.Second)
	m.chat()
	in(t, lost.name, "ip link set eth0 up")
	in(t, lost.name, "ip route replace default via "+fmt.Sprintf(labBridge, 254))
	lost.start(t)
	eventually(t, 20*time.Second, func() string {
		out, errs, code := lost.orama(t, "namespace", "list")
		if code != 0 {
			return errs + out
		}
		return ""
	})
	took := l.instancesAre(t, l.other(lost), 40*time.Second, 2, 3)
	took += l.anew(t, lost, died)
	t.Logf("%s was lost; %s after its return it serves as before (%s in all)", lost.name, ms(took), ms(time.Since(died)))
}

// anew waits until everything on a host was seen ready since a moment, and not only before it.
func (l *lab) anew(t testing.TB, h *labHost, since time.Time) time.Duration {
	t.Helper()
	return eventually(t, 40*time.Second, func() string {
		var status struct{ Instances []instance }
		out, errs, code := l.other(h).orama(t, "namespace", "webrtc-status", "--namespace", "myapp", "--json")
		if code != 0 || json.Unmarshal([]byte(out), &status) != nil {
			return errs + out
		}
		for _, i := range status.Instances {
			if i.Node == h.name && (i.State != "ready" || !i.Since.After(since)) {
				return fmt.Sprintf("%s on %s is %s since %s", i.Role, i.Node, i.State, i.Since)
			}
		}
		return ""
	})
}

// carrier is the host whose relay carries the first person's media.
func (l *lab) carrier(t testing.TB, m *meeting) *labHost {
	t.Helper()
	relay := m.pairs(m.people[0])[0].Relay
	for _, h := range l.hosts {
		if h.mesh == relay {
			return h
		}
	}
	t.Fatalf("no host has the relay %s", relay)
	return nil
}

func (l *lab) other(h *labHost) *labHost {
	return l.hosts[(slices.Index(l.hosts, h)+1)%len(l.hosts)]
}

// partition cuts each host off in turn, for longer than its heartbeats may miss: nothing moves, and what was cut off is
// part of it again when it is healed.
func (l *lab) partition(t *testing.T) {
	before := l.placed(t, l.hosts[0])
	for i, h := range l.hosts {
		h.cut(t)
		l.cuts[i].Store(true)
		cut := time.Now()
		other := l.other(h)
		eventually(t, 40*time.Second, func() string {
			var status struct{ Instances []instance }
			out, _, _ := other.orama(t, "namespace", "webrtc-status", "--namespace", "myapp", "--json")
			_ = json.Unmarshal([]byte(out), &status)
			for _, s := range status.Instances {
				if s.Node == h.name && s.State != "unknown" {
					return s.Node + " is still said to be " + s.State
				}
			}
			return ""
		})
		require.Equal(t, before, l.placed(t, other), "what %s had is still its own", h.name)
		_, _, code := h.orama(t, "namespace", "disable", "webrtc", "--namespace", "myapp")
		require.NotZero(t, code, "a minority changes nothing")
		h.heal(t)
		l.cuts[i].Store(false)
		took := l.instancesAre(t, other, 30*time.Second, 2, 3)
		t.Logf("%s was cut off for %s; seen whole %s after it was healed", h.name, ms(time.Since(cut)-took), ms(took))
		require.Equal(t, before, l.placed(t, h))
	}
}

// placed is who has what on which ports, as a host's agent tells it.
func (l *lab) placed(t testing.TB, on *labHost) []string {
	t.Helper()
	var status struct{ Instances []instance }
	require.NoError(t, json.Unmarshal([]byte(on.must(t, "namespace", "webrtc-status", "--namespace", "myapp", "--json")), &status))
	var out []string
	for _, i := range status.Instances {
		out = append(out, fmt.Sprintf("%s %s %v", i.Node, i.Role, i.Ports))
	}
	return out
}

// rules are the host's UFW rules that are ours.
func (h *labHost) rules(t testing.TB) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(in(t, h.name, "ufw show added")) {
		if strings.Contains(line, "orama:") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// disable leaves nothing of the namespace, and it can be enabled again at once.
func (l *lab) disable(t *testing.T) {
	first := l.hosts[0]
	require.NotEmpty(t, grep(first.rules(t), "myapp"))
	t.Log(first.must(t, "namespace", "disable", "webrtc", "--namespace", "myapp"))
	for _, h := range l.hosts {
		eventually(t, 10*time.Second, func() string { return strings.Join(grep(h.rules(t), "myapp"), "\n") })
		for _, p := range h.processes(t) {
			require.NotContains(t, strings.Join(p.argv, " "), "myapp", h.name)
		}
		require.Empty(t, in(t, l.client, "dig +short +time=2 +tries=1 @"+h.public+" turn.ns-myapp."+labDomain))
	}
	begun := time.Now()
	first.must(t, "namespace", "enable", "webrtc", "--namespace", "myapp")
	t.Logf("enabled again in %s", ms(time.Since(begun)))
	l.instancesAre(t, first, 20*time.Second, 2, 3)
}

func grep(lines []string, word string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(s string) bool { return !strings.Contains(s, word) })
}
