//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

const (
	sfuService   = "orama-namespace-sfu@myapp"
	leaseService = "orama-namespace-turn@myapp"
	turnService  = "orama-turn"
)

var mediaServices = []string{sfuService, leaseService, turnService}

// One host as it is installed from the package: the units do what an operator's commands promise, and come back from
// whatever happens to them.
func TestSystemd(t *testing.T) {
	l := machines(t, 1)
	deb := debianPackage(t)
	m := newMachine(t, l.hosts[0])
	m.bare(t)
	// The mesh is somebody else's here: an interface with its address, and no other host.
	for _, c := range []string{"link add mesh0 type veth peer name mesh1", "link set mesh1 up", "addr add 10.0.0.1/24 dev mesh0", "link set mesh0 up"} {
		in(t, m.host.name, "ip "+c)
	}
	m.must(t, "ufw", "--force", "enable") // with nothing open
	require.NoError(t, m.install(deb))
	m.must(t, "orama", "node", "init", "--node", "node-1", "--public-ip", m.host.public, "--base-domain", "orama.example",
		"--mesh", "existing", "--mesh-ip", m.host.mesh, "--mesh-interface", "mesh0", "--store", "sqlite", "--firewall", "ufw")
	m.must(t, "systemctl", "enable", "--now", "orama")
	require.Equal(t, "active", m.property(t, "orama", "ActiveState"))

	var made struct {
		OwnerKey string `json:"owner_key"`
	}
	require.NoError(t, json.Unmarshal([]byte(m.must(t, "orama", "namespace", "create", "myapp", "--json")), &made))
	begun := time.Now()
	m.must(t, "orama", "namespace", "enable", "webrtc", "--namespace", "myapp")
	t.Logf("WebRTC enabled in %s", ms(time.Since(begun)))
	s := &served{m: m, client: l.client, key: made.OwnerKey}

	t.Run("status", s.status)
	t.Run("rights", s.rights)
	t.Run("firewall", s.firewall)
	t.Run("journal", s.journal)
	t.Run("agent", s.agent)
	t.Run("reload", s.reload)
	t.Run("crash", s.crash)
	t.Run("watchdog", s.watchdog)
	t.Run("lease", s.lease)
	t.Run("power loss", s.powerLoss)
	t.Run("disable", s.disable)
	t.Run("purge", s.purge)
}

// served is a machine on which the namespace myapp has WebRTC.
type served struct {
	m      *machine
	client string // network namespace of the clients
	key    string // the namespace's owner key
}

// allReady waits until both instances were seen to serve, those of the roles for the first time since a moment.
func (s *served) allReady(t testing.TB, since time.Time, anew ...string) time.Duration {
	t.Helper()
	return eventually(t, 40*time.Second, func() string {
		out, err := s.m.try("orama", "namespace", "webrtc-status", "--namespace", "myapp", "--json")
		var status struct {
			Instances []struct {
				Role, State, Detail string
				Since               time.Time
			}
		}
		if err != nil || json.Unmarshal([]byte(out), &status) != nil || len(status.Instances) != 2 {
			return fmt.Sprintf("%v: %s", err, out)
		}
		for _, i := range status.Instances {
			if i.State != "ready" || slices.Contains(anew, i.Role) && i.Since.Before(since) {
				return out + s.m.journal("orama")
			}
		}
		return ""
	})
}

// pids are the main processes of the units that carry media.
func (s *served) pids(t testing.TB) (out []string) {
	t.Helper()
	for _, unit := range mediaServices {
		out = append(out, s.m.property(t, unit, "MainPID"))
	}
	return out
}

// curl asks the gateway from the clients' network.
func (s *served) curl(t testing.TB, path string, into any) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", s.client, "curl", "-sS", "--max-time", "10", "-X", "POST",
		"-H", "X-API-Key: "+s.key, "http://"+s.m.host.public+":8080"+path).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, json.Unmarshal(out, into), string(out))
}

// allocate makes a relay from the clients' network, as an application's client would.
func (s *served) allocate(t testing.TB) net.PacketConn {
	t.Helper()
	var c struct{ Username, Credential string }
	s.curl(t, "/v1/webrtc/turn/credentials", &c)
	require.NotEmpty(t, c.Credential)
	conn, err := within(s.client, func() (net.PacketConn, error) { return net.ListenPacket("udp4", "0.0.0.0:0") })
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	server := s.m.host.public + ":3478"
	client, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: server, TURNServerAddr: server, Conn: conn,
		Username: c.Username, Password: c.Credential, LoggerFactory: quiet})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, client.Listen())
	relay, err := client.Allocate()
	require.NoError(t, err)
	t.Cleanup(func() { relay.Close() })
	at, err := netip.ParseAddrPort(relay.LocalAddr().String())
	require.NoError(t, err)
	require.Equal(t, s.m.host.mesh, at.Addr().String())
	return relay
}

// says waits for a line in a unit's journal, read as the specification says.
func (s *served) says(t testing.TB, unit, text string) {
	t.Helper()
	eventually(t, 15*time.Second, func() string {
		if out := s.m.journal(unit); !strings.Contains(out, text) {
			return fmt.Sprintf("no line says %q: %s", text, out)
		}
		return ""
	})
}

func (s *served) status(t *testing.T) {
	for _, unit := range mediaServices {
		require.Equal(t, "active\n", s.m.must(t, "systemctl", "is-active", unit))
	}
	for unit, text := range map[string]string{sfuService: "serving, rooms: ", leaseService: "serving, relays: ", turnService: "serving, namespaces: 1"} {
		eventually(t, 5*time.Second, func() string {
			out := s.m.must(t, "systemctl", "status", unit)
			if !strings.Contains(out, "Active: active (running)") || !strings.Contains(out, "Status: \""+text) {
				return out
			}
			return ""
		})
	}
}

// rights holds the processes to users and capabilities of their own, and to their own sockets.
func (s *served) rights(t *testing.T) {
	for unit, caps := range map[string]string{sfuService: "0000000000000000", leaseService: "0000000000000000", turnService: "0000000000000400", "orama": "0000000000001400"} {
		status := s.m.must(t, "cat", "/proc/"+s.m.property(t, unit, "MainPID")+"/status")
		require.Contains(t, status, "CapBnd:\t"+caps, unit)
		require.Contains(t, status, "NoNewPrivs:\t1", unit)
		require.NotContains(t, status, "Uid:\t0", unit)
	}
	const sfu, turn = "/run/orama-sfu/myapp/control.sock", "/run/orama-turn/control.sock"
	for _, c := range []struct {
		user, socket string
		may          bool
	}{{"orama", sfu, true}, {"orama", turn, true}, {"orama-turn", sfu, false}, {"orama-sfu", turn, false}, {"nobody", sfu, false}, {"nobody", turn, false}} {
		_, err := s.m.try("setpriv", "--reuid="+c.user, "--regid="+map[bool]string{true: "nogroup", false: c.user}[c.user == "nobody"], "--init-groups",
			"curl", "-sS", "--unix-socket", c.socket, "http://unit/v1/status")
		if c.user == "orama" { // systemd gives the agent its groups; here they are given by hand
			_, err = s.m.try("setpriv", "--reuid=orama", "--regid=orama", "--groups=orama-turn,orama-sfu", "curl", "-sS", "--unix-socket", c.socket, "http://unit/v1/status")
		}
		require.Equal(t, c.may, err == nil, "%s at %s: %v", c.user, c.socket, err)
	}
	_, err := s.m.try("setpriv", "--reuid=orama", "--regid=orama", "--clear-groups", "systemctl", "stop", "dbus.service")
	require.ErrorContains(t, err, "denied", "the agent may stop its own units, and no others")
}

// firewall: the agent is not root, and its rules are there all the same, and gone with the namespace.
func (s *served) firewall(t *testing.T) {
	rules := s.m.must(t, "ufw", "show", "added")
	require.Contains(t, rules, "port 3478 proto udp comment 'orama:")
	require.Contains(t, rules, "in on mesh0 to 10.0.0.1 port 49152:49951 proto udp comment 'orama:myapp:relay'")
	require.Contains(t, s.m.must(t, "journalctl", "-u", "orama-firewall", "--no-pager"), "firewall changed")
}

func (s *served) journal(t *testing.T) {
	s.allocate(t)
	s.says(t, leaseService, "relay opened client="+strings.ReplaceAll(labBridge, "%d", "9"))
	s.says(t, sfuService, "sfu listening")
}

// agent: an agent that is restarted, or dies, costs no process and no relay.
func (s *served) agent(t *testing.T) {
	s.allocate(t)
	before := s.pids(t)
	s.m.must(t, "systemctl", "restart", "orama")
	s.m.must(t, "systemctl", "kill", "-s", "KILL", "orama")
	eventually(t, 20*time.Second, func() string {
		if n := s.m.property(t, "orama", "NRestarts"); n == "0" || s.m.property(t, "orama", "ActiveState") != "active" {
			return "not back: " + s.m.journal("orama")
		}
		return ""
	})
	s.allReady(t, time.Time{})
	require.Equal(t, before, s.pids(t))
	require.NotContains(t, s.m.journal(leaseService), "reason=lease_ended")
}

const turnControl = "/run/orama-turn/control.sock"

// send has a relay send a packet to the namespace's SFU.
func (s *served) send(t testing.TB, relay net.PacketConn) {
	t.Helper()
	for line := range strings.Lines(in(t, s.m.host.name, "ss -Hlun src "+s.m.host.mesh)) {
		at, err := netip.ParseAddrPort(strings.Fields(line)[3])
		require.NoError(t, err)
		if at.Port() >= 20000 && at.Port() < 49152 { // neither a relay nor the name server
			_, err := relay.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(at))
			require.NoError(t, err)
			return
		}
	}
	t.Fatal("the SFU has no socket")
}

// sent is how many packets a relay's client has sent, as one of the TURN server's processes counts them; 0 for one that has no such relay.
func (s *served) sent(t testing.TB, control string, relay net.PacketConn) uint64 {
	t.Helper()
	var list struct {
		Relays []struct {
			Relay     string
			UpPackets uint64 `json:"up_packets"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(s.m.must(t, "orama", "turn", "list", "--json", "--control", control)), &list))
	for _, r := range list.Relays {
		if r.Relay == relay.LocalAddr().String() {
			return r.UpPackets
		}
	}
	return 0
}

// reload: a new program takes the TURN server's place, and the one before serves its relay to its end. A reload that a
// crash follows is a crash.
func (s *served) reload(t *testing.T) {
	relay := s.allocate(t)
	was, others, restarts := s.m.property(t, turnService, "MainPID"), s.pids(t)[:2], s.restarts(t, turnService)
	alive := func(pid string) bool { _, err := s.m.try("kill", "-0", pid); return err == nil }
	leases := func() int {
		return strings.Count(s.m.must(t, "journalctl", "-u", leaseService, "--no-pager"), "the lease begins")
	}
	replaced := func(was string) string {
		begun, pid, held := time.Now(), "", leases()
		s.m.must(t, "systemctl", "reload", turnService)
		eventually(t, 20*time.Second, func() string {
			if pid = s.m.property(t, turnService, "MainPID"); pid == was || pid == "0" {
				return s.m.journal(turnService)
			}
			return ""
		})
		eventually(t, 5*time.Second, func() string {
			if leases() != held+1 {
				return "the lease has not come over: " + s.m.journal(leaseService)
			}
			return ""
		})
		t.Logf("another process after %s, with leases and ready after %s", ms(time.Since(begun)), ms(s.allReady(t, time.Time{})))
		return pid
	}
	now := replaced(was)
	require.NoError(t, s.allocate(t).Close())
	require.Zero(t, s.sent(t, turnControl, relay), "it lives where it began")
	for range 3 {
		s.send(t, relay)
	}
	eventually(t, 5*time.Second, func() string {
		if n := s.sent(t, turnControl+".before", relay); n != 3 {
			return fmt.Sprint("of three packets went through: ", n)
		}
		return ""
	})
	require.True(t, alive(was))

	require.NoError(t, relay.Close())
	eventually(t, 20*time.Second, func() string {
		if alive(was) {
			return "the old process outlives its relay: " + s.m.journal(turnService)
		}
		return ""
	})
	require.Equal(t, now, s.m.property(t, turnService, "MainPID"))
	require.Equal(t, others, s.pids(t)[:2])
	require.Equal(t, restarts, s.restarts(t, turnService), "nothing was restarted")
	require.NotContains(t, s.m.journal(turnService), "reception only permitted")
	s.allReady(t, time.Time{})

	held := s.allocate(t)
	again := replaced(now)
	require.True(t, alive(now))
	s.m.must(t, "kill", "-KILL", again)
	eventually(t, 20*time.Second, func() string {
		if alive(now) || s.restarts(t, turnService) != restarts+1 || s.m.property(t, turnService, "ActiveState") != "active" {
			return "no fresh start: " + s.m.journal(turnService)
		}
		return ""
	})
	held.Close() //nolint:errcheck // it has ended
	s.allReady(t, time.Time{})
	s.allocate(t)
}

func (s *served) crash(t *testing.T) {
	for _, unit := range mediaServices {
		was, restarts := s.m.property(t, unit, "MainPID"), s.restarts(t, unit)
		begun := time.Now()
		s.m.must(t, "systemctl", "kill", "-s", "KILL", unit)
		eventually(t, 10*time.Second, func() string {
			if pid := s.m.property(t, unit, "MainPID"); pid == was || pid == "0" || s.restarts(t, unit) != restarts+1 {
				return s.m.journal(unit)
			}
			return ""
		})
		back := time.Since(begun)
		t.Logf("%s: killed, back in %s, serving after %s", unit, ms(back), ms(back+s.allReady(t, time.Time{})))
	}
}

func (s *served) restarts(t testing.TB, unit string) int {
	n, err := strconv.Atoi(s.m.property(t, unit, "NRestarts"))
	require.NoError(t, err)
	return n
}

// watchdog: a process that does nothing any more is found and replaced.
func (s *served) watchdog(t *testing.T) {
	was := s.m.property(t, sfuService, "MainPID")
	begun := time.Now()
	s.m.must(t, "kill", "-STOP", was)
	eventually(t, 30*time.Second, func() string {
		if pid := s.m.property(t, sfuService, "MainPID"); pid == was || pid == "0" {
			return s.m.journal(sfuService)
		}
		return ""
	})
	s.allReady(t, begun, "sfu")
	t.Logf("a stuck SFU: serving again after %s", ms(time.Since(begun)))
	require.Contains(t, s.m.must(t, "journalctl", "-u", sfuService, "--no-pager"), "Watchdog timeout")
}

// lease: stopping a namespace's lease ends its relays and nobody else's service; the agent wants it back.
func (s *served) lease(t *testing.T) {
	s.allocate(t)
	server := s.m.property(t, turnService, "MainPID")
	s.m.must(t, "systemctl", "mask", "--runtime", leaseService)
	s.m.must(t, "systemctl", "stop", leaseService)
	s.says(t, leaseService, "reason=lease_ended")
	s.says(t, leaseService, "the lease has ended")
	eventually(t, 20*time.Second, func() string {
		out, err := s.m.try("orama", "namespace", "webrtc-status", "--namespace", "myapp")
		if err != nil || !strings.Contains(out, "masked") {
			return fmt.Sprint("the status does not say why: ", err, out)
		}
		return ""
	})
	require.Equal(t, server, s.m.property(t, turnService, "MainPID"))
	s.m.must(t, "systemctl", "unmask", "--runtime", leaseService)
	s.allReady(t, time.Time{})
	require.Equal(t, "active", s.m.property(t, leaseService, "ActiveState"))
}

// powerLoss: everything is gone at once, and everything is back.
func (s *served) powerLoss(t *testing.T) {
	s.m.powerLoss(t)
	begun := time.Now()
	boot := s.m.boot(t)
	s.allReady(t, begun, "sfu", "turn")
	t.Logf("power loss: booted in %s, both instances serve after %s", ms(boot), ms(time.Since(begun)))
	for _, unit := range mediaServices {
		require.Equal(t, "active", s.m.property(t, unit, "ActiveState"), unit)
	}
	s.allocate(t)
	require.Contains(t, s.m.must(t, "journalctl", "-u", leaseService, "-b", "-1", "--no-pager"), "relay opened", "the journal of before is kept")
}

// disable: no unit, socket or process of the namespace is left.
func (s *served) disable(t *testing.T) {
	s.m.must(t, "orama", "namespace", "disable", "webrtc", "--namespace", "myapp")
	eventually(t, 20*time.Second, func() string {
		if left := s.m.must(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "orama-namespace-*"); left != "" {
			return "units are left: " + left
		}
		return ""
	})
	require.NotContains(t, s.m.must(t, "ls", "-R", "/run/orama-sfu"), "control.sock")
	require.NotContains(t, s.m.must(t, "ps", "-eo", "args"), "myapp")
	require.NotContains(t, s.m.must(t, "ufw", "show", "added"), "myapp", "the firewall was seen closed")
	s.m.must(t, "orama", "namespace", "enable", "webrtc", "--namespace", "myapp") // again, at once
}

// purge: the package takes everything with it.
func (s *served) purge(t *testing.T) {
	s.m.must(t, "dpkg", "--purge", "orama")
	left := s.m.must(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "--state=loaded", "orama*")
	require.Empty(t, left)
	require.NotContains(t, s.m.must(t, "ps", "-eo", "args"), "/usr/bin/orama")
	require.NotContains(t, s.m.must(t, "cat", "/etc/passwd", "/etc/group"), "orama")
	for _, path := range []string{"/etc/orama", "/var/lib/orama", "/run/orama", "/run/orama-turn", "/run/orama-sfu", "/usr/bin/orama"} {
		_, err := s.m.try("test", "-e", path)
		require.Error(t, err, "%s is left", path)
	}
}
