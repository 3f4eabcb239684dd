package cert_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/libdns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/cert"
	"orama.network/orama/internal/dns"
	"orama.network/orama/internal/store"
)

// certmagic paces the orders of an account by a goroutine that it never ends.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == beTheProgram {
		syscall.Exit(beProgram(os.Args[2]))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).permit"),
		goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"))
}

const base = "orama.test"

// world is a cluster's records with the name server that answers from them.
type world struct {
	t     *testing.T
	file  string
	keys  *auth.Keys
	dns   *dns.Server
	addr  string
	store *store.Store

	provider certmagic.DNSProvider // of challenges: the records, unless a test says otherwise
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, file: filepath.Join(t.TempDir(), "records.db"), keys: auth.NewKeys([32]byte{1})}
	w.dns = dns.NewServer(dns.Options{Listen: []string{"127.0.0.1:0"}, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, w.dns.Listen())
	w.addr = w.dns.Addrs()[0].String()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.dns.Run(ctx) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-done) })
	w.store, w.provider = w.open(), dns.Challenges{Records: w}
	w.answer()
	return w
}

func (w *world) open() *store.Store {
	s, err := store.Open(w.t.Context(), store.Options{File: w.file})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, s.Close()) })
	return s
}

// answer makes the name server know the records, as a node's agent does when the revision has changed.
func (w *world) answer() {
	txt, err := w.store.TXT(context.Background(), time.Now())
	require.NoError(w.t, err)
	require.NoError(w.t, w.serve(txt))
}

func (w *world) serve(txt []orama.TXTRecord) error {
	return w.dns.Set(dns.Zone{Base: base, Nameservers: []string{"ns1." + base}, TXT: txt,
		Records: []orama.DNSRecord{{Name: "ns1." + base, Value: netip.MustParseAddr("127.0.0.1"), TTL: 60}}})
}

func (w *world) SetTXT(ctx context.Context, r orama.TXTRecord, now time.Time) error {
	defer w.answer()
	return w.store.SetTXT(ctx, r, now)
}

func (w *world) RemoveTXT(ctx context.Context, name, value string) error {
	defer w.answer()
	return w.store.RemoveTXT(ctx, name, value)
}

// node runs one node's certificates until the test, or stop, ends.
func (w *world) node(directory string, roots *x509.CertPool, names ...string) (*cert.ACME, func()) {
	w.t.Helper()
	a := cert.NewACME(cert.ACMEOptions{Directory: directory, Roots: roots, Resolver: w.addr, Provider: w.provider,
		Records: w.open(), Sealer: w.keys, Base: base, Log: slog.New(slog.DiscardHandler)})
	require.NoError(w.t, a.Manage(w.t.Context(), names))
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var ended bool
	stop := func() {
		if !ended {
			ended = true
			cancel()
			require.NoError(w.t, <-done)
		}
	}
	w.t.Cleanup(stop)
	return a, stop
}

// until waits for changes until a condition holds.
func until(t *testing.T, a *cert.ACME, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond) // errors are no change
	defer tick.Stop()
	for !holds() {
		select {
		case <-a.Changed():
		case <-tick.C:
		case <-deadline:
			require.Fail(t, "it never happened", "%s; %+v", what, a.Status())
		}
	}
}

func have(a *cert.ACME) func() bool {
	return func() bool {
		return !slices.ContainsFunc(a.Status(), func(s cert.Status) bool { return s.NotAfter.IsZero() })
	}
}

func leafFor(t *testing.T, a cert.Source, name string) *x509.Certificate {
	t.Helper()
	c, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
	require.NoError(t, err)
	return c.Leaf
}

func TestOneOrderServesAllNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.addr)
	names := []string{base, "*." + base, "*.ns-demo." + base}
	a, _ := w.node(ca.url+"/dir", ca.pool, names...)
	_, _, err := a.For(names, nil)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err), "not yet")
	_, err = a.GetCertificate(&tls.ClientHelloInfo{ServerName: base})
	require.Error(t, err)
	b, _ := w.node(ca.url+"/dir", ca.pool, names...)
	until(t, a, "certificates", have(a))
	until(t, b, "certificates", have(b))
	for _, n := range names {
		require.Equal(t, 1, ca.ordered(n), n)
	}

	chains, keys, err := b.For([]string{"*.ns-demo." + base, "*." + base, base, "*.ns-demo." + base}, nil)
	require.NoError(t, err)
	require.Equal(t, 6, strings.Count(string(chains), "BEGIN CERTIFICATE"), "three chains of two")
	require.Equal(t, 3, strings.Count(string(keys), "PRIVATE KEY-----\n"+"M"))
	for name, of := range map[string]string{"turn.ns-demo.orama.test": "*.ns-demo.orama.test", "turn-2.ns-demo.orama.test": "*.ns-demo.orama.test",
		"ns-demo.orama.test": "*.orama.test", "orama.test": "orama.test", "": "orama.test", "NS-DEMO.orama.test": "*.orama.test"} {
		l := leafFor(t, a, name)
		require.Equal(t, []string{of}, l.DNSNames, name)
		require.Equal(t, l.Raw, leafFor(t, b, name).Raw, "the nodes show the same")
		require.NoError(t, verify(t, ca.roots(), l, strings.Replace(of, "*", "x", 1)))
	}
	_, err = a.GetCertificate(&tls.ClientHelloInfo{ServerName: "example.org"})
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.Equal(t, "Test Authority", a.Status()[0].Issuer)
	require.Empty(t, a.Status()[0].Error)

	left, err := w.store.TXT(t.Context(), time.Now())
	require.NoError(t, err)
	require.Empty(t, left, "the challenges were taken back")
	w.nothingReadable("ns-demo")

	// Another key though the certificate is good: the next handshake has it.
	before := leafFor(t, a, base)
	require.NoError(t, a.Renew(t.Context(), base))
	require.NotEqual(t, before.PublicKey, leafFor(t, a, base).PublicKey)
	require.Equal(t, 2, ca.ordered(base))
	select {
	case <-a.Changed():
	case <-time.After(5 * time.Second):
		require.Fail(t, "nobody was told")
	}
}

// nothingReadable looks through the whole database for a name.
func (w *world) nothingReadable(name string) {
	w.t.Helper()
	for _, f := range []string{w.file, w.file + "-wal"} {
		text, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(w.t, err)
		require.NotContains(w.t, string(text), "PRIVATE KEY")
		require.NotContains(w.t, string(text), "*."+name)
		require.NotContains(w.t, string(text), "wildcard_."+name)
	}
}

// The challenges go into somebody else's zone, by a program.
func TestAnOrderThroughAProgram(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.addr)
	self, err := os.Executable()
	require.NoError(t, err)
	zone := filepath.Join(t.TempDir(), "zone")
	w.provider = servedFrom{w, zone, dns.NewProgram([]string{self, beTheProgram, zone}, slog.New(slog.DiscardHandler))}
	a, _ := w.node(ca.url+"/dir", ca.pool, base, "*."+base)
	until(t, a, "certificates", have(a))
	require.NoError(t, verify(t, ca.roots(), leafFor(t, a, "x."+base), "x."+base))
	left, err := os.ReadDir(zone)
	require.NoError(t, err)
	require.Empty(t, left, "the challenges were taken back")
}

const beTheProgram = "be-the-dns-program"

// beProgram keeps each text of a zone as a file of that name.
func beProgram(zone string) int {
	var q struct {
		Op, Zone string
		Records  []struct{ Name, Type, Data string }
	}
	if json.NewDecoder(os.Stdin).Decode(&q) != nil || q.Zone != base+"." || os.MkdirAll(zone, 0o700) != nil {
		return 1
	}
	for _, r := range q.Records {
		file := filepath.Join(zone, r.Data)
		if q.Op == "append" && (r.Name != "_acme-challenge" || r.Type != "TXT" || os.WriteFile(file, nil, 0o600) != nil) || q.Op == "delete" && os.Remove(file) != nil {
			return 1
		}
	}
	fmt.Println(`{"records":[]}`) // it need not say what it added
	return 0
}

// servedFrom is the world's name server being that of the program's zone.
type servedFrom struct {
	w    *world
	zone string
	*dns.Program
}

func (s servedFrom) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	added, err := s.Program.AppendRecords(ctx, zone, recs)
	files, _ := os.ReadDir(s.zone)
	var txt []orama.TXTRecord
	for _, f := range files {
		txt = append(txt, orama.TXTRecord{Name: "_acme-challenge." + base, Value: f.Name(), TTL: 10})
	}
	return added, errors.Join(err, s.w.serve(txt))
}

// A namespace that is disabled and enabled again has its certificate at once, without another order.
func TestWhatWasOrderedIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.addr)
	a, stop := w.node(ca.url+"/dir", ca.pool, "*.ns-demo."+base)
	until(t, a, "a certificate", have(a))
	require.NoError(t, a.Manage(t.Context(), []string{"*.NS-demo." + base + ".", "*.ns-demo." + base}), "the same")
	require.True(t, have(a)())
	require.NoError(t, a.Manage(t.Context(), nil))
	require.Empty(t, a.Status())
	_, _, err := a.For([]string{"*.ns-demo." + base}, nil)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.NoError(t, a.Manage(t.Context(), []string{"*.ns-demo." + base}))
	until(t, a, "the same certificate", have(a))
	stop()
	require.NotEmpty(t, leafFor(t, a, "turn.ns-demo."+base).Raw, "it serves on while nothing is managed")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(a.Renew(t.Context(), base)))

	b, _ := w.node(ca.url+"/dir", ca.pool, "*.ns-demo."+base)
	until(t, b, "the records' certificate", have(b))
	require.Equal(t, 1, ca.ordered("*.ns-demo."+base))

	many := make([]string, 501)
	for i := range many {
		many[i] = fmt.Sprintf("*.ns-%d.%s", i, base)
	}
	require.Equal(t, orama.KindLimited, orama.KindOf(b.Manage(t.Context(), many)))
}

// Two thirds into its life a certificate is ordered anew, by itself.
func TestRenewalInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.addr)
	ca.set(func() { ca.life = 30 * time.Second })
	a, _ := w.node(ca.url+"/dir", ca.pool, base)
	until(t, a, "a certificate", have(a))
	first := leafFor(t, a, base)
	ca.set(func() { ca.life = time.Hour })
	until(t, a, "another", func() bool { return !leafFor(t, a, base).Equal(first) })
	require.True(t, time.Now().Before(first.NotAfter), "before the first ended")
	require.Equal(t, 2, ca.ordered(base))
}

// An authority that refuses is told by Status, and is not asked again at once.
func TestARefusalIsShownAndPaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.addr)
	ca.set(func() { ca.refuse = true })
	a, stop := w.node(ca.url+"/dir", ca.pool, base)
	until(t, a, "an error", func() bool { return a.Status()[0].Error != "" })
	s := a.Status()[0]
	require.Contains(t, s.Error, "too many orders")
	require.Equal(t, []string{base}, s.Missing)
	require.WithinDuration(t, time.Now(), s.ErrorAt, time.Minute)
	stop() // though it would wait a minute
	ca.set(func() { ca.refuse = false })
	require.Zero(t, ca.ordered(base))
	b, _ := w.node(ca.url+"/dir", ca.pool, base)
	until(t, b, "a certificate", have(b))
}

// A node that takes over from one that died while ordering waits for its lock no longer than a minute; the end of a node
// that lives gives its locks back at once.
func TestAStoppedNodeLeavesNoLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, "127.0.0.1:1") // sees no challenge
	a, stop := w.node(ca.url+"/dir", ca.pool, base)
	until(t, a, "an order", func() bool { return ca.ordered(base) > 0 })
	stop()
	now := time.Now()
	good := newAuthority(t, w.addr)
	b, _ := w.node(good.url+"/dir", good.pool, base)
	until(t, b, "a certificate", have(b))
	require.Less(t, time.Since(now), 50*time.Second)
}

func TestAnotherClustersKeyReadsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := newAuthority(t, w.addr)
	a, stop := w.node(ca.url+"/dir", ca.pool, base)
	until(t, a, "a certificate", have(a))
	stop()
	w.keys = auth.NewKeys([32]byte{2})
	b, _ := w.node(ca.url+"/dir", ca.pool, base)
	until(t, b, "an error", func() bool { return b.Status()[0].Error != "" })
	require.Contains(t, b.Status()[0].Error, "cluster's key")
	require.Equal(t, 1, ca.ordered(base), "what is there is not replaced")
}

// Against an authority that others wrote, which verifies every signature.
func TestPebble(t *testing.T) {
	path, err := exec.LookPath("pebble")
	if err != nil {
		t.Skip("pebble is not on the PATH")
	}
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	own, err := cert.OpenAuthority(dir, "test")
	require.NoError(t, err)
	certPEM, keyPEM, err := own.Issue([]string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.pem"), certPEM, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.key"), keyPEM, 0o600))
	addrs := freeAddrs(t, 2)
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{"listenAddress": addrs[0], "managementListenAddress": addrs[1],
		"certificate": filepath.Join(dir, "tls.pem"), "privateKey": filepath.Join(dir, "tls.key"), "httpPort": 5002, "tlsPort": 5001}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pebble.json"), conf, 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd := exec.Command(path, "-strict", "-config", filepath.Join(dir, "pebble.json"), "-dnsserver", w.addr)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=20")
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed by us
		log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("pebble said:\n%s", text)
		}
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addrs[0])
		if err == nil {
			c.Close()
		}
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)

	names := []string{base, "*." + base, "*.ns-demo." + base}
	directory := "https://" + addrs[0] + "/dir"
	a, _ := w.node(directory, pool(t, dir), names...)
	b, _ := w.node(directory, pool(t, dir), names...)
	began := time.Now()
	until(t, a, "certificates", have(a))
	until(t, b, "certificates", have(b))
	t.Logf("three certificates for two nodes in %s", time.Since(began).Round(time.Millisecond))
	for _, name := range []string{base, "ns-demo." + base, "turn-1.ns-demo." + base} {
		l := leafFor(t, a, name)
		require.NoError(t, l.VerifyHostname(name))
		require.Equal(t, l.Raw, leafFor(t, b, name).Raw, "one order served both nodes")
	}
	before := leafFor(t, a, "turn.ns-demo."+base)
	require.NoError(t, a.Renew(t.Context(), "*.ns-demo."+base))
	require.NotEqual(t, before.Raw, leafFor(t, a, "turn.ns-demo."+base).Raw)
	chains, keys, err := a.For(names, nil)
	require.NoError(t, err)
	block, _ := pem.Decode(chains)
	key, _ := pem.Decode(keys)
	_, err = tls.X509KeyPair(pem.EncodeToMemory(block), pem.EncodeToMemory(key))
	require.NoError(t, err)
}

// freeAddrs finds loopback addresses for a program that cannot be given sockets.
func freeAddrs(t *testing.T, n int) (out []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}
