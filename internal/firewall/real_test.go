package firewall

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"orama.network/orama/internal/plan"
)

// lab is a host with a real UFW of its own, a client that reaches its public address, and another node that reaches
// it through the mesh, each in a network namespace:
//
//	client eth0 203.0.113.9 ── 203.0.113.1 eth0  host  orama0 10.0.0.1 ── 10.0.0.2 orama0 peer
//
// The client has a route to 10.0.0.1 through the public side, by which it must get nowhere.
type lab struct {
	t                  *testing.T
	host, client, peer string
	dir                string
}

// newLab skips where the test may not make one, and says why.
func newLab(t *testing.T) *lab {
	t.Helper()
	for _, tool := range []string{"ip", "ufw", "iptables", "unshare", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed; the real firewall is tested where it is", tool)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root; the real firewall is tested where there is one")
	}
	prefix := fmt.Sprintf("ofw%d", os.Getpid())
	l := &lab{t: t, host: prefix + "h", client: prefix + "c", peer: prefix + "p", dir: t.TempDir()}
	if out, err := exec.Command("ip", "netns", "add", l.host).CombinedOutput(); err != nil {
		t.Skipf("no network namespace can be made here: %s", out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", l.host).Run() }) //nolint:errcheck // it may be gone
	for _, ns := range []string{l.client, l.peer} {
		l.ip("netns add " + ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() }) //nolint:errcheck // it may be gone
	}
	l.wire(l.client, "eth0", "203.0.113.1/24", "203.0.113.9/24")
	l.wire(l.peer, "orama0", "10.0.0.1/24", "10.0.0.2/24")
	l.ip("-n " + l.client + " route add 10.0.0.0/24 via 203.0.113.1")
	l.ip("-n " + l.host + " link set lo up")
	l.pristine()
	return l
}

func (l *lab) ip(line string) {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), "ip", strings.Fields(line)...).CombinedOutput()
	require.NoError(l.t, err, "ip %s: %s", line, out)
}

// wire joins the host and another namespace by a pair of interfaces of one name.
func (l *lab) wire(to, name, ours, theirs string) {
	l.t.Helper()
	l.ip(fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s", name, l.host, name, to))
	for ns, addr := range map[string]string{l.host: ours, to: theirs} {
		l.ip(fmt.Sprintf("-n %s addr add %s dev %s", ns, addr, name))
		l.ip(fmt.Sprintf("-n %s link set %s up", ns, name))
	}
}

// pristine is /etc/ufw as it was installed.
func (l *lab) pristine() {
	l.t.Helper()
	require.NoError(l.t, os.CopyFS(filepath.Join(l.dir, "ufw"), os.DirFS("/etc/ufw")))
	for _, name := range []string{"user.rules", "user6.rules"} {
		text, err := os.ReadFile("/usr/share/ufw/iptables/" + name)
		require.NoError(l.t, err)
		require.NoError(l.t, os.WriteFile(filepath.Join(l.dir, "ufw", name), text, 0o640))
	}
	require.NoError(l.t, os.WriteFile(filepath.Join(l.dir, "ufw/ufw.conf"), []byte("ENABLED=no\nLOGLEVEL=off\n"), 0o644))
	text, err := os.ReadFile("/etc/default/ufw")
	require.NoError(l.t, err)
	require.NoError(l.t, os.WriteFile(filepath.Join(l.dir, "default"), text, 0o644))
}

// ufw is System, inside the host: its network, and files of its own where ufw keeps its.
func (l *lab) ufw(ctx context.Context, args ...string) (string, error) {
	script := `mount --make-rprivate / && mount --bind "$0/ufw" /etc/ufw && mount --bind "$0/default" /etc/default/ufw && mount -t tmpfs none /run && exec ufw "$@"`
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + l.host, "unshare", "-m", "sh", "-c", script, l.dir}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", failure("firewall_failed", "ufw failed", fmt.Errorf("%w: %s", err, out))
	}
	return string(out), nil
}

// operator is somebody at the host's console.
func (l *lab) operator(line string) string {
	l.t.Helper()
	out, err := l.ufw(l.t.Context(), strings.Fields(line)...)
	require.NoError(l.t, err)
	return out
}

// inside runs f on a thread in a network namespace; the sockets that f opens stay there.
func (l *lab) inside(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			h, err := os.Open("/run/netns/" + ns)
			if err != nil {
				return err
			}
			defer h.Close()
			if err := unix.Setns(int(h.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// serve answers on an address of the host.
func (l *lab) serve(network string, at netip.AddrPort) {
	l.t.Helper()
	var wg sync.WaitGroup
	require.NoError(l.t, l.inside(l.host, func() error {
		if network == "tcp" {
			ln, err := net.Listen("tcp", at.String())
			if err != nil {
				return err
			}
			l.t.Cleanup(func() { ln.Close(); wg.Wait() })
			wg.Go(func() {
				for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
					c.Close()
				}
			})
			return nil
		}
		c, err := net.ListenPacket("udp", at.String())
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { c.Close(); wg.Wait() })
		wg.Go(func() {
			b := make([]byte, 16)
			for n, from, err := c.ReadFrom(b); err == nil; n, from, err = c.ReadFrom(b) {
				c.WriteTo(b[:n], from) //nolint:errcheck // the client asks again
			}
		})
		return nil
	}))
}

// answers tells whether what listens on an address is reached from a namespace.
func (l *lab) answers(from, network, at string) bool {
	var c net.Conn
	err := l.inside(from, func() (err error) {
		c, err = net.DialTimeout(network, at, 500*time.Millisecond)
		return err
	})
	if err != nil {
		return false
	}
	defer c.Close()
	if network == "tcp" {
		return true
	}
	c.SetDeadline(time.Now().Add(500 * time.Millisecond)) //nolint:errcheck // a socket takes one
	if _, err := c.Write([]byte("?")); err != nil {
		return false
	}
	_, err = c.Read(make([]byte, 16))
	return err == nil
}

// reached is what real packets reach: from the client on the public side, and from the peer through the mesh.
func (l *lab) reached() []string {
	var mu sync.Mutex
	var out []string
	var wg sync.WaitGroup
	for from, ns := range map[string]string{"client": l.client, "peer": l.peer} {
		for _, at := range listening {
			wg.Go(func() {
				if l.answers(ns, at.network, at.addr) {
					mu.Lock()
					defer mu.Unlock()
					out = append(out, from+" "+at.network+" "+at.addr)
				}
			})
		}
	}
	wg.Wait()
	slices.Sort(out)
	return out
}

var listening = []struct{ network, addr string }{
	{"tcp", "203.0.113.1:22"},
	{"udp", "203.0.113.1:3478"}, {"tcp", "203.0.113.1:3478"}, {"udp", "203.0.113.1:443"}, {"tcp", "203.0.113.1:443"}, {"tcp", "203.0.113.1:5349"},
	{"udp", "203.0.113.1:50000"}, {"udp", "203.0.113.1:9000"},
	{"tcp", "10.0.0.1:30000"}, {"udp", "10.0.0.1:20000"}, {"udp", "10.0.0.1:20001"}, {"udp", "10.0.0.1:49152"}, {"udp", "10.0.0.1:49951"}, {"udp", "10.0.0.1:49952"},
}

// sees waits until packets reach just this; SSH and the operator's own port, which are in it, show that packets flow at all.
func (l *lab) sees(want ...string) {
	l.t.Helper()
	want = append(want, "client tcp 203.0.113.1:22", "client udp 203.0.113.1:9000")
	slices.Sort(want)
	var got []string
	for range 5 { // a busy machine may be late with an answer
		if got = l.reached(); slices.Equal(got, want) {
			return
		}
	}
	require.Equal(l.t, want, got)
}

// A namespace's WebRTC on a host whose UFW is on: every rule seen to open and to close with real packets.
func TestRealUFW(t *testing.T) {
	l := newLab(t)
	for _, at := range listening {
		l.serve(at.network, netip.MustParseAddrPort(at.addr))
	}
	u := New("orama0", l.ufw, slog.New(slog.DiscardHandler))
	node := []plan.Opening{
		{Tag: "myapp:relay", Proto: "udp", Ports: ports(49152, 800), To: mesh, Mesh: true},
		{Tag: "myapp:sfu", Proto: "tcp", Ports: ports(30000, 1), To: mesh, Mesh: true},
		{Tag: "myapp:sfu", Proto: "udp", Ports: ports(20000, 1), To: mesh, Mesh: true},
		{Tag: "turn", Proto: "udp", Ports: ports(3478, 1), To: public},
		{Tag: "turn", Proto: "tcp", Ports: ports(3478, 1), To: public},
		{Tag: "turn", Proto: "udp", Ports: ports(443, 1), To: public},
		{Tag: "turn", Proto: "tcp", Ports: ports(443, 1), To: public},
		{Tag: "turn", Proto: "tcp", Ports: ports(5349, 1), To: public},
		{Tag: "gateway", Proto: "tcp", Ports: ports(8443, 1)}, // of both families: two rules to the kernel, one to ufw
	}

	// Enabling on an inactive firewall is told of; the operator enables it, and nothing else has to be done.
	require.NoError(t, u.Apply(t.Context(), node[:1]))
	require.Contains(t, u.Status().Problem, "inactive")
	l.operator("allow 22/tcp")
	l.operator("allow to 203.0.113.1 port 9000 proto udp comment theirs")
	l.operator("deny from 192.0.2.99")
	l.operator("--force enable")
	relay := []string{"peer udp 10.0.0.1:49152", "peer udp 10.0.0.1:49951"}
	l.sees(relay...)

	require.NoError(t, u.Apply(t.Context(), node))
	require.Empty(t, u.Status().Problem)
	sfu := []string{"peer tcp 10.0.0.1:30000", "peer udp 10.0.0.1:20000"}
	turn := []string{"client udp 203.0.113.1:3478", "client tcp 203.0.113.1:3478", "client udp 203.0.113.1:443", "client tcp 203.0.113.1:443", "client tcp 203.0.113.1:5349"}
	l.sees(slices.Concat(relay, sfu, turn)...)

	before := l.operator("show added")
	began := time.Now()
	require.NoError(t, u.Apply(t.Context(), node))
	t.Logf("applying %d rules that are there takes %s", len(node), time.Since(began).Round(time.Millisecond))
	require.Equal(t, before, l.operator("show added"), "applying the same twice changes nothing")

	// A port that the operator opens too stays open when ours is not wanted any more; a tag can change in place.
	l.operator("allow to 203.0.113.1 port 5349 proto tcp comment mine")
	node[6].Tag = "gateway"
	require.NoError(t, u.Apply(t.Context(), node[:7]))
	require.Contains(t, l.operator("show added"), "ufw allow to 203.0.113.1 port 443 proto tcp comment 'orama:gateway'")
	require.NoError(t, u.Apply(t.Context(), node[1:3]))
	l.sees(append(sfu, turn[4])...)
	l.operator("delete allow to 203.0.113.1 port 5349 proto tcp")
	require.NoError(t, u.Apply(t.Context(), nil))
	l.sees()
	require.Equal(t, []string{"allow to any port 22 proto tcp", "allow to 203.0.113.1 port 9000 proto udp comment 'theirs'", "deny from 192.0.2.99 to any"},
		texts(Parse(l.operator("show added"))), "what is somebody else's is as it was")
}

func texts(rs []Rule) (out []string) {
	for _, r := range rs {
		out = append(out, r.String())
	}
	return out
}
