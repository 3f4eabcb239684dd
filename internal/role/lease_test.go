package role

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/probe"
	"orama.network/orama/internal/turn"
)

// page is a log that is read while it is written.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// leased is a TURN process with leases on addresses of its own, and its control socket.
type leased struct {
	t       *testing.T
	control string
	spec    plan.TURNSpec
	end     func()
}

func newLeased(t *testing.T) *leased {
	pid := os.Getpid()
	ip := netip.AddrFrom4([4]byte{127, byte(192 + pid>>8&31), byte(pid), 7})
	l := &leased{t: t, control: filepath.Join(t.TempDir(), "turn.sock"), spec: plan.TURNSpec{
		Node: "node-1", PublicIP: ip, RelayIP: ip.Next(), Realm: "orama.test",
		Tenants: []plan.TenantSpec{{Namespace: "myapp", Secret: auth.NewTURNSecret(), Relay: orama.PortRange{First: 49152, Count: 800}}},
	}}
	l.start()
	t.Cleanup(func() { l.end() })
	return l
}

// start runs the process and configures it, as its agent does.
func (l *leased) start() {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- TURN(ctx, Unit{Control: l.control, Shared: true, Drain: time.Millisecond, Log: slog.New(slog.DiscardHandler)}, true, nil)
	}()
	l.end = sync.OnceFunc(func() {
		cancel()
		require.NoError(l.t, <-done)
	})
	l.eventually(func() bool { return dialUnit(l.control).apply(l.t.Context(), l.spec) == nil }, "no process took the configuration")
}

func (l *leased) status() (s turn.Status) {
	_ = dialUnit(l.control).status(l.t.Context(), &s)
	return s
}

func (l *leased) eventually(is func() bool, what string) {
	l.t.Helper()
	require.NoError(l.t, poll(l.t.Context(), 10*time.Second, func() (bool, error) { return is(), nil }), what)
}

// allocate uses the server as a client would.
func (l *leased) allocate() error { return l.allocateWith(l.spec.Tenants[0].Secret) }

func (l *leased) allocateWith(secret string) error {
	user, credential := auth.MintTURN(secret, l.spec.Tenants[0].Namespace, time.Now().Add(time.Minute))
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
	defer cancel()
	return probe.TURN(ctx, netip.AddrPortFrom(l.spec.PublicIP, 3478), l.spec.Realm, user, credential)
}

func TestLease(t *testing.T) {
	l := newLeased(t)
	require.Error(t, l.allocate(), "nobody holds the lease")
	require.Contains(t, turnStatus(l.status()), "without a lease: 1")
	info, err := os.Stat(l.control)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o660), info.Mode().Perm())

	out := &page{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Lease(ctx, "myapp", l.control, out, slog.New(slog.DiscardHandler)) }()
	l.eventually(func() bool { return len(l.status().Tenants) == 1 }, "the namespace is not served")
	require.NoError(t, l.allocate(), "as a node does that looks whether it serves")
	require.Error(t, l.allocateWith("not the secret"))
	l.eventually(func() bool { return strings.Contains(out.String(), "reason=wrong_credential") }, "the log does not have the refusal")
	require.NotContains(t, out.String(), "relay opened", "the node's own look is no client")

	// A second holder waits; the first is not disturbed.
	second, stop := context.WithCancel(t.Context())
	waiting := &page{}
	refused := make(chan error, 1)
	go func() {
		refused <- Lease(second, "myapp", l.control, &page{}, slog.New(slog.NewTextHandler(waiting, nil)))
	}()
	l.eventually(func() bool { return strings.Contains(waiting.String(), "leased by another process") }, "the second was not refused")
	stop()
	require.NoError(t, <-refused)

	// The server is restarted: the lease comes back by itself.
	boot := l.status().Boot
	l.end()
	l.start()
	l.eventually(func() bool { s := l.status(); return s.Boot != boot && len(s.Tenants) == 1 }, "the lease did not come back")

	cancel()
	require.NoError(t, <-done)
	require.Empty(t, l.status().Tenants, "seen released before it returned")
	require.Contains(t, out.String(), "the lease has ended")
	require.NotContains(t, out.String(), l.spec.Tenants[0].Secret)
}

func TestLeaseOfNoServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	log := &page{}
	done := make(chan error, 1)
	go func() {
		done <- Lease(ctx, "myapp", filepath.Join(t.TempDir(), "none"), &page{}, slog.New(slog.NewTextHandler(log, nil)))
	}()
	require.NoError(t, poll(t.Context(), 5*time.Second, func() (bool, error) { return strings.Contains(log.String(), "tried again"), nil }))
	cancel()
	require.NoError(t, <-done)
	require.Equal(t, 1, strings.Count(log.String(), "\n"), "once, not with every try")
	require.Error(t, Lease(t.Context(), "No Namespace", "", &page{}, slog.New(slog.DiscardHandler)))
}

// systemd is told when the process serves, how it is, and that it lives, until it is gone.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer socket.Close()
	require.NoError(t, socket.SetReadDeadline(time.Now().Add(20*time.Second)))
	heard := func() string {
		b := make([]byte, 4096)
		n, err := socket.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")

	var healthy sync.Mutex // guards the following
	state := "fine"
	n := notify(func() string { healthy.Lock(); defer healthy.Unlock(); return state })
	until := func(what string) {
		for said := heard(); said != what; said = heard() {
			require.Contains(t, []string{"WATCHDOG=1", "STATUS=busy"}, said)
		}
	}
	require.Equal(t, "READY=1\nSTATUS=fine", heard())
	require.Equal(t, "WATCHDOG=1", heard())
	healthy.Lock()
	state = "busy"
	healthy.Unlock()
	until("STATUS=busy")
	n.ending()
	until("STOPPING=1")
	until("WATCHDOG=1") // it lives while it drains

	healthy.Lock() // a lock is stuck: no more beats
	for {
		require.NoError(t, socket.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
		if _, err := socket.Read(make([]byte, 4096)); err != nil {
			break
		}
	}
	healthy.Unlock()
	n.close()
}
