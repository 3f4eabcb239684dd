package role

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
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
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/turn"
)

// aloneIPs numbers the loopback addresses of these tests, so that their ports meet nobody else's.
var aloneIPs atomic.Uint32

func aloneIP() netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(192 + pid>>8&31), byte(pid), byte(20 + aloneIPs.Add(1))})
}

// alone is a TURN server that stands alone, with a peer for its relays.
type alone struct {
	t      *testing.T
	o      Standalone
	reload chan os.Signal
	log    *page
	peer   netip.AddrPort // answers everything
	end    func()
}

const secretOne, secretTwo = "the-first-secret-of-this-test", "the-second-secret-of-this-test"

func newAlone(t *testing.T, tenants string, change ...func(*alone)) *alone {
	t.Helper()
	ip, dir := aloneIP(), t.TempDir()
	a := &alone{t: t, reload: make(chan os.Signal), log: &page{}}
	a.peer = echoes(t)
	a.o = Standalone{
		Listen: ip, RelayIP: aloneIP(), Ports: turn.Ports{UDP: 13478, TCP: 13478, TLS: 15349, HTTPS: 10443, NoDTLS: true}, Realm: "example.org",
		Tenants: filepath.Join(dir, "tenants.yaml"), Allow: []fence.Rule{{Prefix: netip.PrefixFrom(a.peer.Addr(), 32), First: a.peer.Port(), Last: a.peer.Port()}},
		RelayPorts: orama.PortRange{First: 50000, Count: 400}, Metrics: netip.AddrPortFrom(ip, 9641).String(), Control: filepath.Join(dir, "turn.sock"),
		Drain: 10 * time.Second, Reload: a.reload,
	}
	a.write(tenants)
	for _, f := range change {
		f(a)
	}
	a.o.Log = slog.New(slog.NewJSONHandler(a.log, nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- TURNStandalone(ctx, a.o) }()
	a.end = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(func() { a.end() })
	a.eventually(func() bool {
		var s turn.Status
		return dialUnit(a.o.Control).status(t.Context(), &s) == nil && s.Configured
	})
	return a
}

// echoes is a peer on an address of its own.
func echoes(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(aloneIP(), 0)))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from) //nolint:errcheck // its reader notices
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// write replaces the tenants file in one step, as careful editors do.
func (a *alone) write(text string) {
	a.t.Helper()
	require.NoError(a.t, os.WriteFile(a.o.Tenants+".tmp", []byte(text), 0o600))
	require.NoError(a.t, os.Rename(a.o.Tenants+".tmp", a.o.Tenants))
}

func (a *alone) eventually(ok func() bool) {
	a.t.Helper()
	require.Eventually(a.t, ok, 10*time.Second, 5*time.Millisecond, "%s", a.log)
}

// said counts the log's lines with a message, and fails when a secret is in any.
func (a *alone) said(msg string) (n int) {
	a.t.Helper()
	text := a.log.String()
	require.NotContains(a.t, text, "-secret-of-this-test")
	for line := range strings.Lines(text) {
		var l struct{ Msg string }
		require.NoError(a.t, json.Unmarshal([]byte(line), &l))
		if strings.HasPrefix(l.Msg, msg) {
			n++
		}
	}
	return n
}

// relayed is a client of pion's and its relay.
type relayed struct {
	net.PacketConn
	t *testing.T
}

// client opens a relay as a tenant's user does, over UDP or another connection.
func (a *alone) client(ns orama.NamespaceID, secret string, over ...net.Conn) (*relayed, error) {
	a.t.Helper()
	var conn net.PacketConn
	if len(over) > 0 {
		conn = pion.NewSTUNConn(over[0])
	} else {
		c, err := net.ListenPacket("udp4", netip.AddrPortFrom(a.o.Listen, 0).String())
		require.NoError(a.t, err)
		conn = c
	}
	user, password := auth.MintTURN(secret, ns, time.Now().Add(time.Minute))
	at := netip.AddrPortFrom(a.o.Listen, 13478).String()
	c, err := pion.NewClient(&pion.ClientConfig{STUNServerAddr: at, TURNServerAddr: at, Conn: conn, Username: user, Password: password, Realm: "example.org",
		LoggerFactory: &logging.DefaultLoggerFactory{Writer: io.Discard}})
	require.NoError(a.t, err)
	require.NoError(a.t, c.Listen())
	a.t.Cleanup(func() { c.Close(); conn.Close() })
	r, err := c.Allocate()
	if err != nil {
		return nil, err
	}
	a.t.Cleanup(func() { r.Close() }) // before the client: its timers end with it
	return &relayed{r, a.t}, nil
}

func (a *alone) relay(ns orama.NamespaceID, secret string, over ...net.Conn) *relayed {
	a.t.Helper()
	r, err := a.client(ns, secret, over...)
	require.NoError(a.t, err, "%s", a.log)
	return r
}

// reaches reports whether a packet goes to a peer and its answer comes back.
func (r *relayed) reaches(peer netip.AddrPort) bool {
	r.t.Helper()
	if _, err := r.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(peer)); err != nil {
		return false
	}
	require.NoError(r.t, r.SetReadDeadline(time.Now().Add(5*time.Second)))
	b := make([]byte, 1500)
	n, from, err := r.ReadFrom(b)
	return err == nil && string(b[:n]) == "hello" && from.String() == peer.String()
}

func (r *relayed) id(ns string) string {
	return fmt.Sprintf("%s/%d", ns, r.LocalAddr().(*net.UDPAddr).Port)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url) //nolint:noctx // of this process
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

func TestStandalone(t *testing.T) {
	a := newAlone(t, "myapp: "+secretOne)
	first := a.relay("myapp", secretOne)
	require.True(t, first.reaches(a.peer))
	_, err := a.client("myapp", secretTwo)
	require.Error(t, err)
	_, err = a.client("other", secretOne)
	require.Error(t, err)

	// Over TLS, with the certificate it made.
	conn, err := tls.Dial("tcp4", netip.AddrPortFrom(a.o.Listen, 15349).String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is self-signed
	require.NoError(t, err)
	require.NoError(t, conn.ConnectionState().PeerCertificates[0].VerifyHostname("turn.example.org"))
	second := a.relay("myapp", secretOne, conn)
	require.True(t, second.reaches(a.peer))
	require.Equal(t, 1, a.said("turn: TLS and DTLS have a certificate made at this start"))

	// Nothing shares the HTTPS port, so it is the relay's for clients that ask for any name.
	https, err := tls.Dial("tcp4", netip.AddrPortFrom(a.o.Listen, 10443).String(), &tls.Config{ServerName: "example.net", InsecureSkipVerify: true}) //nolint:gosec // as above
	require.NoError(t, err)
	require.NoError(t, https.Close())

	// What operators see.
	list, err := Relays(t.Context(), a.o.Control, "")
	require.NoError(t, err)
	require.Len(t, list.Relays, 2)
	require.False(t, list.Cut)
	list, err = Relays(t.Context(), a.o.Control, "other")
	require.NoError(t, err)
	require.Empty(t, list.Relays)
	require.NoError(t, EndRelay(t.Context(), a.o.Control, second.id("myapp")))
	require.Equal(t, orama.KindNotFound, orama.KindOf(EndRelay(t.Context(), a.o.Control, second.id("myapp"))))
	require.Equal(t, orama.KindInvalid, orama.KindOf(EndRelay(t.Context(), a.o.Control, "myapp/x")))
	require.Equal(t, orama.KindInvalid, orama.KindOf(EndRelay(t.Context(), a.o.Control, "myapp")))
	list, err = Relays(t.Context(), a.o.Control, "myapp")
	require.NoError(t, err)
	require.Len(t, list.Relays, 1)
	require.Equal(t, first.id("myapp"), list.Relays[0].ID)
	require.Equal(t, uint64(1), list.Relays[0].UpPackets)
	code, text := get(t, "http://"+a.o.Metrics+"/healthz")
	require.Equal(t, 200, code)
	require.Contains(t, text, "relays: 1")
	_, text = get(t, "http://"+a.o.Metrics+"/metrics")
	require.Contains(t, text, `orama_turn_allocations{namespace="myapp",transport="udp"} 1`)
	require.Contains(t, text, "orama_turn_tenants_file_ok 1")
	require.Error(t, dialUnit(a.o.Control).apply(t.Context(), map[string]any{}), "the file alone configures it")
	_, err = Relays(t.Context(), a.o.Control+".not", "")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))

	// It drains: what lives lives on, and nothing new begins.
	ended := make(chan struct{})
	go func() { defer close(ended); a.end() }()
	a.eventually(func() bool { code, _ := get(t, "http://"+a.o.Metrics+"/healthz"); return code == 503 })
	_, err = a.client("myapp", secretOne)
	require.Error(t, err)
	require.True(t, first.reaches(a.peer))
	require.NoError(t, first.Close())
	<-ended
	require.NoFileExists(t, a.o.Control)
}

func TestStandaloneReloadsTenants(t *testing.T) {
	a := newAlone(t, "myapp: "+secretOne+"\nother: "+secretOne)
	stays, rotated := a.relay("myapp", secretOne), a.relay("other", secretOne)
	relays := func() (ids []string) {
		list, err := Relays(t.Context(), a.o.Control, "")
		require.NoError(t, err)
		for _, r := range list.Relays {
			ids = append(ids, r.ID)
		}
		return ids
	}
	require.ElementsMatch(t, []string{stays.id("myapp"), rotated.id("other")}, relays())

	a.write("myapp: " + secretOne + "\nother: " + secretTwo + "\naaa: " + secretTwo)
	a.eventually(func() bool { return a.said("turn: tenant has another secret") == 1 })
	require.Equal(t, []string{stays.id("myapp")}, relays(), "a tenant that stays as it is keeps its relays, the others do not")
	require.True(t, stays.reaches(a.peer))
	require.True(t, a.relay("aaa", secretTwo).reaches(a.peer))
	require.True(t, a.relay("other", secretTwo).reaches(a.peer))
	_, err := a.client("other", secretOne)
	require.Error(t, err)

	// Damaged, it is refused with one line.
	const refusal = "turn: the tenants file is refused"
	a.write("myapp: [" + secretTwo)
	a.eventually(func() bool { return a.said(refusal) == 1 })
	_, text := get(t, "http://"+a.o.Metrics+"/metrics")
	require.Contains(t, text, "orama_turn_tenants_file_ok 0")
	require.NoError(t, os.Chtimes(a.o.Tenants, time.Time{}, time.Now().Add(-time.Hour))) // looked at again, and no news
	a.reload <- syscall.SIGHUP                                                           // who asks is answered
	a.eventually(func() bool { return a.said(refusal) == 2 })
	require.NoError(t, os.Remove(a.o.Tenants))
	a.eventually(func() bool { return a.said(refusal) == 3 })
	require.Contains(t, a.log.String(), "no such file")
	require.Len(t, relays(), 3)
	require.True(t, stays.reaches(a.peer))
	require.True(t, a.relay("aaa", secretTwo).reaches(a.peer))

	// On SIGHUP at once; and what a tenant may reach and do is its own.
	a.write("myapp: {secret: " + secretOne + ", allocations: 7, allow: []}")
	a.reload <- syscall.SIGHUP
	a.reload <- syscall.SIGHUP // taken once the first was dealt with
	require.Equal(t, 1, a.said("turn: tenant has other rules"))
	require.Equal(t, 2, a.said("turn: tenant removed"))
	require.Equal(t, []string{stays.id("myapp")}, relays())
	require.False(t, a.relay("myapp", secretOne).reaches(a.peer))
	require.Equal(t, 1, a.said("turn: nothing is allowed"))
	a.reload <- syscall.SIGHUP
	require.Positive(t, a.said("turn: the tenants file was read again"))
	require.Equal(t, 3, a.said(refusal))
	_, text = get(t, "http://"+a.o.Metrics+"/metrics")
	require.Contains(t, text, "orama_turn_tenants_file_ok 1")
}

// What is not allowed by name is out of reach, whatever else is.
func TestStandaloneAllows(t *testing.T) {
	everywhere, err := fence.ParseRule("0.0.0.0/0")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		allow   func(a *alone) []fence.Rule
		reaches bool
	}{
		"nothing":      {func(*alone) []fence.Rule { return nil }, false},
		"all but this": {func(*alone) []fence.Rule { return []fence.Rule{everywhere} }, false}, // the peer is on loopback
		"another port": {func(a *alone) []fence.Rule {
			return []fence.Rule{{Prefix: netip.PrefixFrom(a.peer.Addr(), 32), First: 1, Last: a.peer.Port() - 1}}
		}, false},
		"another address": {func(a *alone) []fence.Rule {
			return []fence.Rule{{Prefix: netip.PrefixFrom(a.o.Listen, 32), First: 1, Last: 65535}}
		}, false},
		"loopback by name": {func(*alone) []fence.Rule {
			return []fence.Rule{{Prefix: netip.MustParsePrefix("127.0.0.0/8"), First: 1, Last: 65535}}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAlone(t, "myapp: "+secretOne, func(a *alone) { a.o.Allow = c.allow(a) })
			r := a.relay("myapp", secretOne)
			if c.reaches {
				require.True(t, r.reaches(a.peer))
			} else {
				_, err := r.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(a.peer))
				require.Equal(t, name == "another port", err == nil, "a permission is for an address, the packet decides")
				if err == nil {
					a.eventually(func() bool {
						_, text := get(t, "http://"+a.o.Metrics+"/metrics")
						return strings.Contains(text, `orama_turn_fence_dropped_packets_total{direction="up",namespace="myapp",transport="udp"} 1`)
					})
				}
			}
			require.Equal(t, name == "nothing", a.said("turn: nothing is allowed") == 1)
			require.NoError(t, r.Close())
		})
	}
}

func TestStandaloneReloadsCertificates(t *testing.T) {
	ca, err := cert.NewAuthority("of a test")
	require.NoError(t, err)
	issue := func(a *alone, name string) {
		chain, key, err := ca.Issue([]string{name}, nil)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(a.o.Cert, chain, 0o600))
		require.NoError(t, os.WriteFile(a.o.Key, key, 0o600))
	}
	a := newAlone(t, "myapp: "+secretOne, func(a *alone) {
		a.o.Cert, a.o.Key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
		issue(a, "one.example.org")
	})
	shown := func() *tls.Conn {
		conn, err := tls.Dial("tcp4", netip.AddrPortFrom(a.o.Listen, 15349).String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // looked at below
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := shown()
	require.NoError(t, conn.ConnectionState().PeerCertificates[0].VerifyHostname("one.example.org"))
	r := a.relay("myapp", secretOne, conn)
	issue(a, "two.example.org")
	a.reload <- syscall.SIGHUP
	a.reload <- syscall.SIGHUP // taken once the first was dealt with
	require.Equal(t, 2, a.said("a certificate was read"), "at once")
	a.eventually(func() bool {
		return shown().ConnectionState().PeerCertificates[0].VerifyHostname("two.example.org") == nil
	})
	require.True(t, r.reaches(a.peer), "a new certificate ends no relay")
	require.NoError(t, os.WriteFile(a.o.Key, []byte("damaged"), 0o600))
	a.reload <- syscall.SIGHUP
	a.eventually(func() bool { return a.said("the certificate in the files cannot be used") == 1 })
	require.NoError(t, shown().ConnectionState().PeerCertificates[0].VerifyHostname("two.example.org"))
	require.NoError(t, r.Close())
}

func TestStandaloneSpec(t *testing.T) {
	shared, own := []fence.Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), First: 1, Last: 2}}, []fence.Rule{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), First: 3, Last: 4}}
	limits := plan.TenantLimits{Allocations: 1, BytesPerSecond: 2, BurstBytes: 3, ClientAllocations: 4, ClientBytesPerSecond: 5, ClientBurstBytes: 6}
	s := standalone{Standalone: Standalone{Listen: netip.MustParseAddr("192.0.2.1"), RelayIP: netip.MustParseAddr("192.0.2.2"), Realm: "example.org", Allow: shared,
		HTTPS: "127.0.0.1:8443", HTTPSProxy: true}, pem: [2][]byte{[]byte("chain"), []byte("key")}}
	one, two := orama.PortRange{First: 50000, Count: 1}, orama.PortRange{First: 50001, Count: 1}
	require.Equal(t, plan.TURNSpec{
		Node: "standalone", PublicIP: s.Listen, RelayIP: s.RelayIP, Realm: "example.org", HTTPSBackend: "127.0.0.1:8443", HTTPSProxy: true, CertPEM: "chain", KeyPEM: "key",
		Tenants: []plan.TenantSpec{
			{Namespace: "myapp", Secret: secretOne, Relay: one, Rules: shared, Limits: limits},
			{Namespace: "other", Secret: secretTwo, Relay: two, Rules: own},
		},
	}, s.spec([]fileTenant{{ns: "myapp", secret: secretOne, limits: limits}, {ns: "other", secret: secretTwo, rules: own, own: true}},
		map[orama.NamespaceID]orama.PortRange{"myapp": one, "other": two}))
}

func TestStandaloneRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "tenants.yaml")
	require.NoError(t, os.WriteFile(good, []byte("myapp: "+secretOne), 0o600))
	ip := aloneIP()
	taken, err := net.Listen("tcp", netip.AddrPortFrom(ip, 9641).String())
	require.NoError(t, err)
	defer taken.Close()
	for why, damage := range map[string]func(*Standalone){
		"no such file":         func(o *Standalone) { o.Tenants = filepath.Join(dir, "none.yaml") },
		"--cert and --key go":  func(o *Standalone) { o.Cert = good },
		"--cert and --key:":    func(o *Standalone) { o.Cert, o.Key = good, good },
		"--relay-ports is":     func(o *Standalone) { o.RelayPorts.First = 80 },
		"--tenant-ports is":    func(o *Standalone) { o.TenantSize = 401 },
		"--metrics":            func(o *Standalone) { o.Metrics = taken.Addr().String() },
		"--control":            func(o *Standalone) { o.Control = filepath.Join(dir, "none", "turn.sock") },
		"cannot listen":        func(o *Standalone) { o.Ports.TCP = 9641 },
		"relay_ip":             func(o *Standalone) { o.RelayIP = netip.IPv4Unspecified() },
		"every listener":       func(o *Standalone) { o.Ports.NoUDP, o.Ports.NoTCP = true, true },
		"--allow is there 257": func(o *Standalone) { o.Allow = make([]fence.Rule, 257) },
	} {
		o := Standalone{Listen: ip, RelayIP: ip, Realm: "example.org", Tenants: good, RelayPorts: orama.PortRange{First: 50000, Count: 400},
			Ports: turn.Ports{UDP: 13478, TCP: 13478, NoTLS: true, NoDTLS: true, NoHTTPS: true}, Log: slog.New(slog.DiscardHandler)}
		damage(&o)
		err := TURNStandalone(t.Context(), o)
		require.ErrorContains(t, err, why)
		require.NotContains(t, err.Error(), secretOne)
	}
}

// The server that an agent configures is asked the same way.
func TestRelaysOfAnAgentsServer(t *testing.T) {
	l := newLeased(t)
	list, err := Relays(t.Context(), l.control, "")
	require.NoError(t, err)
	require.NotNil(t, list.Relays)
	require.Equal(t, orama.KindNotFound, orama.KindOf(EndRelay(t.Context(), l.control, "myapp/49152")))
}

func TestFindTURN(t *testing.T) {
	dir := t.TempDir()
	_, err := FindTURN(dir, "node-2")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.ErrorContains(t, err, "--control")
	runDir, err := RunDir(dir)
	require.NoError(t, err)
	want := turnSocket(runDir, "node-2")
	require.NoError(t, os.MkdirAll(filepath.Dir(want), 0o700))
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(want)) }) // it may lie elsewhere, when the path is long
	require.NoError(t, os.WriteFile(want, nil, 0o600))
	got, err := FindTURN(dir, "node-2")
	require.NoError(t, err)
	require.Equal(t, want, got)
}
