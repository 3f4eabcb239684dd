package cli_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pion/logging"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/role"
	"orama.network/orama/internal/turn"
)

const patience = 20 * time.Second

var upgradeIPs atomic.Uint32

// ownIP is a loopback address that nobody else uses.
func ownIP() netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(160 + pid>>8&31), byte(pid), byte(20 + upgradeIPs.Add(1))})
}

// upgraded is a TURN server as a user runs it, whose program is put into another one's place.
type upgraded struct {
	t       *testing.T
	dir     string // with the program, the socket and the log
	control string
	server  netip.AddrPort
	peer    netip.AddrPort // answers everything
	first   *exec.Cmd
}

func newUpgraded(t *testing.T, port uint16) *upgraded {
	t.Helper()
	u := &upgraded{t: t, dir: t.TempDir(), server: netip.AddrPortFrom(ownIP(), port), peer: answers(t)}
	u.control = filepath.Join(u.dir, "turn.sock")
	u.install()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log:\n%s", u.log())
		}
	})
	return u
}

// answers is a peer.
func answers(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ownIP(), 0)))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from) //nolint:errcheck // its reader notices
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// put has another program where the server was started from, as a package does.
func (u *upgraded) put(link func(path string) error) {
	u.t.Helper()
	at := filepath.Join(u.dir, "orama")
	require.NoError(u.t, link(at+".new"))
	require.NoError(u.t, os.Rename(at+".new", at))
}

func (u *upgraded) install() {
	exe, err := os.Executable()
	require.NoError(u.t, err)
	u.put(func(path string) error { return os.Symlink(exe, path) })
}

// command is the program with arguments; its output goes to a file.
func (u *upgraded) command(log string, args ...string) *exec.Cmd {
	u.t.Helper()
	out, err := os.OpenFile(filepath.Join(u.dir, log), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(u.t, err)
	defer out.Close()
	c := exec.Command(filepath.Join(u.dir, "orama"), args...)
	c.Env = append(os.Environ(), "PATH="+u.dir+":"+os.Getenv("PATH"))
	c.Stdout, c.Stderr = out, out
	require.NoError(u.t, c.Start())
	u.t.Cleanup(func() { c.Process.Kill(); c.Wait() }) //nolint:errcheck // it has ended, and was waited for, mostly
	return c
}

func (u *upgraded) start(args ...string) {
	u.first = u.command("log", append([]string{"turn", "run", "--control", u.control}, args...)...)
	u.eventually("it does not answer", func() bool { _, err := u.status(u.control); return err == nil })
}

func (u *upgraded) log() string {
	text, _ := os.ReadFile(filepath.Join(u.dir, "log")) //nolint:errcheck // not there yet: empty
	return string(text)
}

func (u *upgraded) eventually(what string, ok func() bool) {
	u.t.Helper()
	require.Eventually(u.t, ok, patience, 5*time.Millisecond, what)
}

func (u *upgraded) do(control, method, path string, in, out any) error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", control)
		}}}
	text, err := json.Marshal(in)
	require.NoError(u.t, err)
	req, err := http.NewRequestWithContext(u.t.Context(), method, "http://unit"+path, bytes.NewReader(text))
	require.NoError(u.t, err)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || out == nil {
		return err
	} else {
		return json.Unmarshal(body, out)
	}
}

func (u *upgraded) status(control string) (s turn.Status, err error) {
	err = u.do(control, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// relays are those that a process has.
func (u *upgraded) relays(control string) []turn.RelayStatus {
	u.t.Helper()
	list, err := role.Relays(u.t.Context(), control, "")
	require.NoError(u.t, err)
	return list.Relays
}

func (u *upgraded) signal(sig syscall.Signal) {
	u.t.Helper()
	require.NoError(u.t, u.first.Process.Signal(sig))
}

// refuses asks for an upgrade to a program that fails.
func (u *upgraded) refuses() {
	u.t.Helper()
	u.put(func(path string) error { return os.WriteFile(path, []byte("#!/bin/sh\nexit 3\n"), 0o700) }) //nolint:gosec // a program
	u.signal(syscall.SIGUSR2)
	u.eventually("nothing was refused", func() bool { return strings.Contains(u.log(), "not upgraded") })
	u.install()
}

var handedOverTo = regexp.MustCompile(`turn: handed over;.* pid=(\d+)`)

// handedOver waits for the end of an upgrade, and gives the new process.
func (u *upgraded) handedOver() *os.Process {
	u.t.Helper()
	var pid int
	u.eventually("it was not handed over", func() bool {
		if m := handedOverTo.FindStringSubmatch(u.log()); m != nil {
			pid, _ = strconv.Atoi(m[1]) //nolint:errcheck // it is a number
		}
		return pid != 0
	})
	p, err := os.FindProcess(pid)
	require.NoError(u.t, err)
	u.t.Cleanup(func() { p.Kill() }) //nolint:errcheck // it has ended, mostly
	return p
}

// ended waits for a process's end, and says how it was.
func (u *upgraded) ended(c *exec.Cmd) error {
	u.t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		u.t.Fatalf("it goes on: %s", c)
		return nil
	}
}

// relaying sends numbered packets through a relay and back, one after the other, and counts those that do not return.
type relaying struct {
	u        *upgraded
	relay    net.PacketConn
	client   *pion.Client
	sent     atomic.Int64
	lost     atomic.Int64
	stop     chan struct{}
	finished sync.WaitGroup
}

func (u *upgraded) relaying(ns orama.NamespaceID, secret string) *relaying {
	u.t.Helper()
	conn, err := net.ListenPacket("udp4", netip.AddrPortFrom(u.server.Addr(), 0).String())
	require.NoError(u.t, err)
	user, password := auth.MintTURN(secret, ns, time.Now().Add(time.Minute))
	quiet := &logging.DefaultLoggerFactory{Writer: io.Discard}
	c, err := pion.NewClient(&pion.ClientConfig{STUNServerAddr: u.server.String(), TURNServerAddr: u.server.String(), Conn: conn,
		Username: user, Password: password, Realm: "orama", LoggerFactory: quiet})
	require.NoError(u.t, err)
	require.NoError(u.t, c.Listen())
	u.t.Cleanup(func() { c.Close(); conn.Close() })
	relay, err := c.Allocate()
	require.NoError(u.t, err)
	r := &relaying{u: u, relay: relay, client: c, stop: make(chan struct{})}
	r.finished.Go(r.run)
	u.t.Cleanup(func() { r.end() })
	return r
}

func (r *relaying) run() {
	b := make([]byte, 1500)
	for n := uint64(0); ; n++ {
		select {
		case <-r.stop:
			return
		default:
		}
		r.relay.WriteTo(binary.BigEndian.AppendUint64(nil, n), net.UDPAddrFromAddrPort(r.u.peer)) //nolint:errcheck // counted below
		r.relay.SetReadDeadline(time.Now().Add(time.Second))                                      //nolint:errcheck // as above
		if got, _, err := r.relay.ReadFrom(b); err != nil || got != 8 || binary.BigEndian.Uint64(b) != n {
			r.lost.Add(1)
		}
		r.sent.Add(1)
	}
}

// goesOn waits until more packets have gone through, and holds them to be all that were sent.
func (r *relaying) goesOn() {
	r.u.t.Helper()
	until := r.sent.Load() + 50
	r.u.eventually("nothing goes through", func() bool { return r.sent.Load() >= until })
	require.Zero(r.u.t, r.lost.Load())
}

// end gives the relay back.
func (r *relaying) end() {
	select {
	case <-r.stop:
		return
	default:
	}
	close(r.stop)
	r.finished.Wait()
	r.relay.Close() //nolint:errcheck // of one that the server has ended
}

const upgradeSecret = "a-secret-that-nobody-guesses"

func newUpgradedAlone(t *testing.T) *upgraded {
	t.Helper()
	u := newUpgraded(t, 13478)
	tenants := filepath.Join(u.dir, "tenants.yaml")
	require.NoError(t, os.WriteFile(tenants, []byte("myapp: "+upgradeSecret+"\n"), 0o600))
	u.start("--standalone", "--listen", u.server.Addr().String(), "--port", "13478", "--tls-port", "off", "--https-port", "off",
		"--tenants", tenants, "--allow", u.peer.String(), "--drain", "100ms")
	return u
}

func TestUpgradeAlone(t *testing.T) {
	t.Parallel()
	u := newUpgradedAlone(t)
	before := u.relaying("myapp", upgradeSecret)
	before.goesOn()
	u.refuses()
	second := u.relaying("myapp", upgradeSecret)
	require.Len(t, u.relays(u.control), 2)

	u.signal(syscall.SIGUSR2)
	next := u.handedOver()
	after := u.relaying("myapp", upgradeSecret)
	for _, r := range []*relaying{before, second, after} {
		r.goesOn()
	}
	require.Len(t, u.relays(u.control), 1)
	require.Len(t, u.relays(u.control+".before"), 2)

	before.end()
	second.end()
	require.NoError(t, u.ended(u.first))
	require.NoFileExists(t, u.control+".before")
	after.goesOn()
	u.relaying("myapp", upgradeSecret).goesOn()
	require.NoError(t, next.Signal(syscall.SIGTERM))
	u.eventually("the new one does not end", func() bool { _, err := os.Stat(u.control); return os.IsNotExist(err) })
}

// A process whose successor crashes ends, so that whoever watches starts afresh.
func TestUpgradeThatCrashes(t *testing.T) {
	t.Parallel()
	u := newUpgradedAlone(t)
	u.relaying("myapp", upgradeSecret).goesOn()
	u.signal(syscall.SIGUSR2)
	require.NoError(t, u.handedOver().Kill())
	var failed *exec.ExitError
	require.ErrorAs(t, u.ended(u.first), &failed)
	require.Contains(t, u.log(), "took the place of this one, has ended")
}

// clustered is a server with two namespaces, each with a lease, that the test configures as an agent does.
type clustered struct {
	*upgraded
	spec   plan.TURNSpec
	leases map[orama.NamespaceID]*exec.Cmd
}

func newClustered(t *testing.T) *clustered {
	t.Helper()
	c := &clustered{upgraded: newUpgraded(t, 3478), leases: map[orama.NamespaceID]*exec.Cmd{}}
	c.spec = plan.TURNSpec{Node: "node-1", PublicIP: c.server.Addr(), RelayIP: ownIP(), Realm: "orama"}
	c.start("--leases", "--share-control", "--drain", "100ms")
	for i, ns := range []orama.NamespaceID{"myapp", "other"} {
		c.spec.Tenants = append(c.spec.Tenants, plan.TenantSpec{Namespace: ns, Secret: auth.NewTURNSecret(),
			Relay: orama.PortRange{First: uint16(50000 + 800*i), Count: 800}, Allow: []netip.AddrPort{c.peer}}) //nolint:gosec // small
		c.leases[ns] = c.command(string(ns)+".log", "turn", "lease", "--namespace", string(ns), "--control", c.control)
	}
	c.configure()
	c.eventually("the leases do not begin", func() bool { s, err := c.status(c.control); return err == nil && len(s.Tenants) == 2 })
	return c
}

func (c *clustered) configure() {
	c.t.Helper()
	require.NoError(c.t, c.do(c.control, http.MethodPut, "/v1/config", c.spec, nil))
}

func (c *clustered) relaying(i int) *relaying {
	c.t.Helper()
	return c.upgraded.relaying(c.spec.Tenants[i].Namespace, c.spec.Tenants[i].Secret)
}

// begun is how often a namespace's lease has begun.
func (c *clustered) begun(ns orama.NamespaceID) int {
	text, err := os.ReadFile(filepath.Join(c.dir, string(ns)+".log"))
	require.NoError(c.t, err)
	return strings.Count(string(text), "the lease begins")
}

func TestUpgradeOfANode(t *testing.T) {
	t.Parallel()
	c := newClustered(t)
	mine, others := c.relaying(0), c.relaying(1)
	boot, err := c.status(c.control)
	require.NoError(t, err)
	c.refuses()
	s, err := c.status(c.control)
	require.NoError(t, err)
	require.Equal(t, boot.Boot, s.Boot, "the old process has its socket back")
	require.Len(t, s.Tenants, 2)

	// Until the agent has configured the new one, the old one serves all.
	c.signal(syscall.SIGUSR2)
	c.eventually("the new one does not answer", func() bool { s, err := c.status(c.control); return err == nil && s.Boot != boot.Boot })
	third := c.relaying(0)
	require.Len(t, c.relays(c.control+".before"), 3)
	c.configure()
	s, err = c.status(c.control)
	require.NoError(t, err)
	require.Len(t, s.Tenants, 2, "served before the leases' holders have come")
	require.Empty(t, s.Unleased)
	c.handedOver()
	c.eventually("the leases do not come back", func() bool { return c.begun("myapp") == 2 && c.begun("other") == 2 })
	after := c.relaying(1)
	for _, r := range []*relaying{mine, others, third, after} {
		r.goesOn()
	}
	require.Len(t, c.relays(c.control), 1)
	require.Len(t, c.relays(c.control+".before"), 3)

	// What the agent takes away has no relay in the old one either.
	all := c.spec.Tenants
	c.spec.Tenants = all[:1]
	c.configure()
	c.eventually("a removed tenant has a relay in the old one", func() bool { return len(c.relays(c.control+".before")) == 2 })
	require.Empty(t, c.relays(c.control))
	mine.goesOn()

	// Nor does one whose lease is stopped. The old one ends then.
	require.NoError(t, c.leases["myapp"].Process.Signal(syscall.SIGTERM))
	require.NoError(t, c.ended(c.leases["myapp"]))
	require.NoError(t, c.ended(c.first))
	s, err = c.status(c.control)
	require.NoError(t, err)
	require.Equal(t, []orama.NamespaceID{"myapp"}, s.Unleased)
	require.NotContains(t, c.log(), c.spec.Tenants[0].Secret)
}
