package turn

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
)

// Clients that nobody here wrote: coturn's own tools against this server.

// foreign gives the path of a tool, or skips the test with the reason.
func foreign(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian: coturn): tools/install gets it", name)
	}
	return path
}

// foreignPeer is coturn's turnutils_peer: it echoes on two ports of an address of its own.
func foreignPeer(t *testing.T) []netip.AddrPort {
	t.Helper()
	tool, ip := foreign(t, "turnutils_peer"), freshIP()
	cmd := exec.Command(tool, "-L", ip.String(), "-p", "3480")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // by that signal
	})
	return []netip.AddrPort{netip.AddrPortFrom(ip, 3480), netip.AddrPortFrom(ip, 3481)}
}

// uclient runs coturn's turnutils_uclient against h for a minute at most, and gives what it said.
func (h *host) uclient(t *testing.T, port uint16, args ...string) string {
	t.Helper()
	return h.uclientFor(t, time.Minute, port, args...)
}

func (h *host) uclientFor(t *testing.T, most time.Duration, port uint16, args ...string) string {
	t.Helper()
	tool := foreign(t, "turnutils_uclient")
	user, credential := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(10*time.Minute))
	args = append([]string{"-u", user, "-w", credential, "-p", strconv.Itoa(int(port)), "-L", "127.0.0.1", "-z", "5"}, args...)
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, append(args, h.spec.PublicIP.String())...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	return string(out)
}

// uclients runs the tool many times side by side, for it is idle most of its seconds, and gives what each said.
func (h *host) uclients(t *testing.T, most time.Duration, runs []foreignRun) map[string]string {
	t.Helper()
	foreign(t, "turnutils_uclient")
	said := make([]string, len(runs))
	var all sync.WaitGroup
	for i, r := range runs {
		all.Go(func() { said[i] = h.uclientFor(t, most, r.way.port, slices.Concat(r.way.flags, r.flags)...) })
	}
	all.Wait()
	out := map[string]string{}
	for i, r := range runs {
		out[r.way.name+", "+r.name] = said[i]
	}
	return out
}

// foreignRun is one way to run the tool.
type foreignRun struct {
	name  string
	way   foreignWay
	flags []string
}

var messages = regexp.MustCompile(`tot_send_msgs=(\d+), tot_recv_msgs=(\d+)`)

// delivered requires that a run ended by itself, has sent what it wanted, and got back at least so many.
func delivered(t *testing.T, out string, want, least int) {
	t.Helper()
	all := messages.FindAllStringSubmatch(out, -1)
	require.NotEmpty(t, all, "the tool gave up:\n%s", out)
	last := all[len(all)-1]
	sent, err := strconv.Atoi(last[1])
	require.NoError(t, err)
	got, err := strconv.Atoi(last[2])
	require.NoError(t, err)
	require.Equal(t, want, sent, "sent:\n%s", out)
	require.GreaterOrEqual(t, got, least, "received:\n%s", out)
	require.LessOrEqual(t, got, sent, "and nothing twice:\n%s", out)
}

// foreignWay is how the tool is told to come in.
type foreignWay struct {
	name  string
	port  uint16
	flags []string
}

var foreignWays = []foreignWay{
	{"udp", testPorts.UDP, nil}, {"tcp", testPorts.TCP, []string{"-t"}}, {"tls", testPorts.TLS, []string{"-t", "-S"}}, {"dtls", testPorts.HTTPS, []string{"-S"}},
}

// The tool's own tests of damage: it sends broken requests of every kind, hangs up at random, and binds what it may not.
// What comes of it for the tool is its affair; the server serves on.
func TestUclientNegative(t *testing.T) {
	peers := foreignPeer(t)
	h := newHost(t, func(h *host) { h.tenant(alpha).Allow = append(peers, h.sfu[alpha].at) })
	living := h.ready("udp", alpha)
	living.allocate()
	var runs []foreignRun
	for _, way := range foreignWays {
		for mode, flag := range map[string]string{"negative": "-N", "protocol": "-R", "random disconnects": "-B", "quick exits": "-O"} {
			runs = append(runs, foreignRun{mode, way, []string{flag, "-c", "-m", "2", "-n", "10", "-e", peers[0].Addr().String(), "-r", "3480"}})
		}
	}
	h.uclients(t, 8*time.Second, runs)
	living.reaches(h.sfu[alpha].at)
	require.Zero(t, errorCode(living.refresh()))
	for _, way := range transports {
		h.ready(way, alpha).allocate()
	}
}

// TCP relays (RFC 6062) are refused to the tool as to anybody.
func TestUclientTCPRelay(t *testing.T) {
	h := newHost(t)
	out := h.uclient(t, testPorts.TCP, "-T", "-m", "2", "-n", "5")
	require.Contains(t, out, "442")
	require.Zero(t, h.allocations(alpha))
}

// A wrong password, a credential that is over, and a namespace that is not there.
func TestUclientRefused(t *testing.T) {
	h := newHost(t)
	tool := foreign(t, "turnutils_uclient")
	user, credential := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(-time.Minute))
	other, _ := auth.MintTURN(h.tenant(alpha).Secret, "nobody", h.clock.expiry(time.Minute))
	for name, who := range map[string][2]string{"expired": {user, credential}, "wrong": {user, "guess"}, "unknown": {other, credential}} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, tool, "-u", who[0], "-w", who[1], "-p", strconv.Itoa(int(testPorts.UDP)), "-L", "127.0.0.1", "-c", "-e", h.spec.RelayIP.String(), h.spec.PublicIP.String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, _ := cmd.CombinedOutput() //nolint:errcheck // a refusal is what it should meet
		cancel()
		require.NotContains(t, string(out), "tot_send_msgs", name)
		require.Zero(t, h.allocations(alpha), name)
	}
}

// coturn's STUN client sees its own address, over UDP; and the tool's RFC 5780 tests are declined.
func TestStunclient(t *testing.T) {
	h := newHost(t)
	tool := foreign(t, "turnutils_stunclient")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "-p", strconv.Itoa(int(testPorts.UDP)), "-L", "127.0.0.1", h.spec.PublicIP.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Regexp(t, `reflexive addr: 127\.0\.0\.1:\d+`, strings.ReplaceAll(string(out), "UDP ", ""))
	require.NotContains(t, string(out), "RFC 5780 response")
	require.NotContains(t, string(out), "Other addr")
}
