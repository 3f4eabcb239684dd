package mesh_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"orama.network/orama/internal/mesh"
)

// lab is three hosts as network namespaces on a bridge.
type lab struct {
	t     *testing.T
	dir   string
	hosts [4]*labHost // from 1
}

// labHost is one of them: its device and its agent are processes of their own.
type labHost struct {
	lab    *lab
	id     string
	ns     string
	name   string // of the interface; the sockets of all namespaces are in one directory
	ip     netip.Addr
	device *exec.Cmd
	agent  *exec.Cmd
	say    io.WriteCloser
	heard  chan string
}

const labPrefix = "mm-"

func needLab(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces and tun devices need root")
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skipf("WireGuard in user space needs /dev/net/tun: %v", err)
	} else {
		f.Close()
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need ip, of iproute2")
	}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	needLab(t)
	l := &lab{t: t, dir: t.TempDir()}
	remove := func() {
		for _, ns := range []string{"sw", "1", "2", "3"} {
			_ = exec.Command("ip", "netns", "del", labPrefix+ns).Run() // it need not be there
		}
	}
	remove()
	t.Cleanup(remove)
	sw := labPrefix + "sw"
	l.ip("netns", "add", sw)
	l.ip("-n", sw, "link", "add", "br0", "type", "bridge")
	l.ip("-n", sw, "link", "set", "br0", "up")
	for i := 1; i <= 3; i++ {
		h := &labHost{lab: l, id: fmt.Sprintf("node-%d", i), ns: labPrefix + strconv.Itoa(i), name: fmt.Sprintf("mmwg%d", i),
			ip: netip.AddrFrom4([4]byte{10, 77, 0, byte(i)})}
		l.hosts[i] = h
		l.ip("netns", "add", h.ns)
		l.ip("-n", h.ns, "link", "add", "eth0", "type", "veth", "peer", "name", "p"+strconv.Itoa(i), "netns", sw)
		l.ip("-n", sw, "link", "set", "p"+strconv.Itoa(i), "master", "br0", "up")
		l.ip("-n", h.ns, "addr", "add", fmt.Sprintf("203.0.113.%d/24", i), "dev", "eth0")
		l.ip("-n", h.ns, "link", "set", "eth0", "up")
		l.ip("-n", h.ns, "link", "set", "lo", "up")
	}
	return l
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoErrorf(l.t, err, "ip %s: %s", strings.Join(args, " "), out)
}

// start runs this program as one of the host's processes.
func (h *labHost) start(role string, env ...string) *exec.Cmd {
	h.lab.t.Helper()
	exe, err := os.Executable()
	require.NoError(h.lab.t, err)
	c := exec.Command("ip", "netns", "exec", h.ns, exe)
	c.Env = append(os.Environ(), append(env, "MESH_ROLE="+role, "MESH_INTERFACE="+h.name)...)
	log, err := os.OpenFile(filepath.Join(h.lab.dir, h.id+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(h.lab.t, err)
	c.Stderr = log
	h.lab.t.Cleanup(func() {
		log.Close()
		if h.lab.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			h.lab.t.Logf("%s:\n%s", h.id, text)
		}
	})
	return c
}

func (h *labHost) startDevice() {
	h.device = h.start("device")
	require.NoError(h.lab.t, h.device.Start())
	d := h.device
	h.lab.t.Cleanup(func() { _ = d.Process.Signal(syscall.SIGTERM); _ = d.Wait() }) // may have ended
}

func (h *labHost) startAgent() {
	h.agent = h.start("agent", "MESH_ID="+h.id, "MESH_DIR="+h.lab.dir, "MESH_ADDRESS="+h.ip.String()+"/24", "MESH_MODE=auto",
		fmt.Sprintf("MESH_ENDPOINT=203.0.113.%d:%d", h.ip.As4()[3], mesh.DefaultPort))
	var err error
	h.say, err = h.agent.StdinPipe()
	require.NoError(h.lab.t, err)
	out, err := h.agent.StdoutPipe()
	require.NoError(h.lab.t, err)
	require.NoError(h.lab.t, h.agent.Start())
	a := h.agent
	h.lab.t.Cleanup(func() { _ = a.Process.Kill(); _ = a.Wait() }) // may have ended
	heard := make(chan string, 10)
	h.heard = heard
	go func() {
		defer close(heard)
		for in := bufio.NewScanner(out); in.Scan(); {
			heard <- in.Text()
		}
	}()
	require.Equal(h.lab.t, "open", h.hear())
}

func (h *labHost) hear() string {
	h.lab.t.Helper()
	select {
	case s := <-h.heard:
		return s
	case <-time.After(40 * time.Second):
		require.Fail(h.lab.t, "the agent says nothing", h.id)
		return ""
	}
}

// in runs f in a host's network namespace. Sockets that it makes stay there.
func (h *labHost) in(f func()) {
	h.lab.t.Helper()
	done := make(chan error)
	go func() {
		// The thread is not unlocked, so it ends with its goroutine instead of being used again in that namespace.
		runtime.LockOSThread()
		ns, err := os.Open("/run/netns/" + h.ns)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	require.NoError(h.lab.t, <-done)
}

func (h *labHost) listen() *net.UDPConn {
	var c *net.UDPConn
	var err error
	h.in(func() { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.ip, 0))) })
	require.NoError(h.lab.t, err)
	return c
}

// flow is a stream of packets from one host to another and back over the mesh, one every 2 ms.
type flow struct {
	from, to *net.UDPConn
	stop     context.CancelFunc
	done     sync.WaitGroup

	mu        sync.Mutex // guards the following fields
	sent      int
	there     int
	back      int
	lastThere time.Time
	lastBack  time.Time
	longThere time.Duration // the longest silence at the far end
	longBack  time.Duration
}

func startFlow(a, b *labHost) *flow {
	ctx, cancel := context.WithCancel(a.lab.t.Context())
	f := &flow{from: a.listen(), to: b.listen(), stop: cancel}
	f.done.Add(3)
	go f.send(ctx)
	go f.echo()
	go f.hear()
	a.lab.t.Cleanup(func() { f.end() })
	require.Eventually(a.lab.t, func() bool { _, _, back := f.counts(); return back > 0 }, 15*time.Second, 10*time.Millisecond, "no packet comes back")
	f.reset()
	return f
}

func (f *flow) send(ctx context.Context) {
	defer f.done.Done()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	to := f.to.LocalAddr()
	b := make([]byte, 200)
	for n := uint64(0); ; n++ {
		binary.BigEndian.PutUint64(b, n)
		f.mu.Lock()
		f.sent++
		f.mu.Unlock()
		_, _ = f.from.WriteTo(b, to) // what is lost is counted
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *flow) echo() {
	defer f.done.Done()
	b := make([]byte, 1500)
	for {
		n, from, err := f.to.ReadFrom(b)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.there++
		f.longThere, f.lastThere = silence(f.longThere, f.lastThere)
		f.mu.Unlock()
		_, _ = f.to.WriteTo(b[:n], from)
	}
}

func (f *flow) hear() {
	defer f.done.Done()
	b := make([]byte, 1500)
	for {
		if _, _, err := f.from.ReadFrom(b); err != nil {
			return
		}
		f.mu.Lock()
		f.back++
		f.longBack, f.lastBack = silence(f.longBack, f.lastBack)
		f.mu.Unlock()
	}
}

func silence(longest time.Duration, last time.Time) (time.Duration, time.Time) {
	now := time.Now()
	if !last.IsZero() {
		longest = max(longest, now.Sub(last))
	}
	return longest, now
}

func (f *flow) counts() (sent, there, back int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent, f.there, f.back
}

func (f *flow) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent, f.there, f.back, f.longThere, f.longBack = 0, 0, 0, 0, 0
}

// longest says how long each way was silent at most since reset.
func (f *flow) longest() (there, back time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(f.longThere, time.Since(f.lastThere)), max(f.longBack, time.Since(f.lastBack))
}

func (f *flow) end() {
	f.stop()
	f.from.Close()
	f.to.Close()
	f.done.Wait()
}

// lives waits until a hundred packets more have come back.
func (f *flow) lives(t *testing.T) {
	t.Helper()
	_, _, was := f.counts()
	require.Eventually(t, func() bool { _, _, back := f.counts(); return back > was+100 }, 20*time.Second, 10*time.Millisecond, "the flow is dead")
}

// A machine under load stands still for longer than what is measured here, so what is demanded is only that no handshake
// was lost, which WireGuard tries again after 5 s; what was seen is in the log.
const tolerated = 3 * time.Second

func (f *flow) tolerable(t *testing.T, what string) {
	t.Helper()
	sent, there, back := f.counts()
	longThere, longBack := f.longest()
	t.Logf("%s: %d sent, %d there, %d back, longest silence %v there, %v back", what, sent, there, back, longThere, longBack)
	require.Less(t, max(longThere, longBack), tolerated)
	require.Greater(t, back, sent/2)
}

// session says when a host and a peer shook hands last: a peer that was not touched has the session that it had.
func (h *labHost) session(with *labHost) time.Time {
	h.lab.t.Helper()
	for _, p := range h.status().Peers {
		if slices.Contains(p.AllowedIPs, netip.PrefixFrom(with.ip, 32)) {
			return p.LastHandshake
		}
	}
	require.Fail(h.lab.t, "no such peer", with.id)
	return time.Time{}
}

func (h *labHost) status() mesh.Status {
	h.lab.t.Helper()
	var s mesh.Status
	var err error
	h.in(func() {
		var m *mesh.Mesh
		m, err = mesh.Open(h.lab.t.Context(), mesh.Options{Interface: h.name, Address: netip.PrefixFrom(h.ip, 24), Mode: mesh.ModeExisting})
		if err == nil {
			s, err = m.Status(h.lab.t.Context())
			_ = m.Close()
		}
	})
	require.NoError(h.lab.t, err)
	return s
}

func TestThreeHosts(t *testing.T) {
	l := newLab(t)
	for _, h := range l.hosts[1:] {
		h.startDevice()
		h.startAgent()
	}
	one, two, three := l.hosts[1], l.hosts[2], l.hosts[3]
	flow12 := startFlow(one, two)
	flow31 := startFlow(three, one)
	both := func(t *testing.T, f func(*flow)) { t.Helper(); f(flow12); f(flow31) }

	t.Run("a change of peers touches no other", func(t *testing.T) {
		flow31.end()
		flow12.reset()
		was := one.session(two)
		require.NoError(t, three.agent.Process.Kill())
		require.NoError(t, os.Remove(filepath.Join(l.dir, three.id+".node")))
		require.Eventually(t, func() bool { return len(one.status().Peers) == 1 }, 10*time.Second, 50*time.Millisecond)
		three.startAgent()
		require.Eventually(t, func() bool { return len(one.status().Peers) == 2 }, 10*time.Second, 50*time.Millisecond)
		flow12.lives(t)
		flow12.tolerable(t, "peer removed and added")
		require.Equal(t, was, one.session(two))
		flow31 = startFlow(three, one)
	})
	t.Run("the agent is killed and starts again", func(t *testing.T) {
		both(t, (*flow).reset)
		with2, with3 := one.session(two), one.session(three)
		require.NoError(t, one.agent.Process.Kill())
		_ = one.agent.Wait()
		both(t, func(f *flow) { f.lives(t) })
		one.startAgent()
		both(t, func(f *flow) { f.lives(t); f.tolerable(t, "agent killed and started") })
		require.Equal(t, with2, one.session(two))
		require.Equal(t, with3, one.session(three))
	})
	t.Run("a key changes", func(t *testing.T) {
		was := one.status().PublicKey
		both(t, (*flow).reset)
		rotate(t, one)
		both(t, func(f *flow) { f.lives(t); f.tolerable(t, "key changed") })
		require.NotEqual(t, was, one.status().PublicKey)
		// The others forget the old key when the records do.
		require.Eventually(t, func() bool { return len(two.status().Peers) == 2 }, 10*time.Second, 50*time.Millisecond)
		for _, p := range two.status().Peers {
			require.NotEqual(t, was, p.Key)
			require.Len(t, p.AllowedIPs, 1)
		}
	})
	t.Run("two keys change at once", func(t *testing.T) {
		both(t, (*flow).reset)
		rotate(t, one, two)
		both(t, func(f *flow) { f.lives(t); f.tolerable(t, "two keys changed") })
	})
	t.Run("the interface's process dies", func(t *testing.T) {
		require.NoError(t, one.device.Process.Kill())
		_ = one.device.Wait()
		both(t, (*flow).reset)
		one.startDevice()
		// The sockets were bound to an address that went and came again, so they serve on.
		both(t, func(f *flow) { f.lives(t) })
		require.Equal(t, "10.77.0.1/24", one.status().Address.String())
	})
	t.Run("an existing interface is used", func(t *testing.T) {
		s := one.status()
		require.Equal(t, "existing", s.Kind)
		require.True(t, s.Up)
		require.GreaterOrEqual(t, len(s.Peers), 2) // more while one still announces two keys
		one.in(func() {
			_, err := mesh.Open(t.Context(), mesh.Options{Address: netip.MustParsePrefix("10.77.0.99/24")})
			require.ErrorContains(t, err, "10.77.0.99 is not on this host")
		})
	})
}

func rotate(t *testing.T, hosts ...*labHost) {
	t.Helper()
	for _, h := range hosts {
		_, err := fmt.Fprintln(h.say, "rotate")
		require.NoError(t, err)
	}
	for _, h := range hosts {
		require.Equal(t, "rotated <nil>", h.hear())
	}
}
