package dns

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
)

const testKey = "orama-key."

var testSecret = base64.StdEncoding.EncodeToString([]byte("a secret of thirty-two bytes....."))

// elsewhere is somebody else's name server for orama.test, as much of one as updates need.
type elsewhere struct {
	mu      sync.Mutex // guards the following fields
	zone    []dns.RR
	updates int
}

func (e *elsewhere) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(r)
	soa, _ := dns.NewRR("orama.test. 60 IN SOA ns.orama.test. h.orama.test. 1 60 60 60 60")
	t := r.IsTsig()
	switch {
	case t == nil || w.TsigStatus() != nil:
		m.Rcode = dns.RcodeNotAuth
		_ = w.WriteMsg(m) // unsigned, as for a key that is not known
		return
	case r.Opcode == dns.OpcodeUpdate:
		e.updates++
		for _, rr := range r.Ns {
			e.apply(rr)
		}
	case r.Question[0].Qtype == dns.TypeAXFR:
		out := make(chan *dns.Envelope, 1)
		out <- &dns.Envelope{RR: slices.Concat([]dns.RR{soa}, e.zone, []dns.RR{soa})}
		close(out)
		_ = (&dns.Transfer{TsigSecret: map[string]string{testKey: testSecret}}).Out(w, r, out) // the client closes when it has it
		return
	case dns.IsSubDomain("orama.test.", strings.ToLower(r.Question[0].Name)):
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{soa}
	default:
		m.Rcode = dns.RcodeRefused
	}
	m.SetTsig(t.Hdr.Name, t.Algorithm, tsigFudge, time.Now().Unix())
	_ = w.WriteMsg(m)
}

func (e *elsewhere) apply(rr dns.RR) {
	h := rr.Header()
	gone := func(have dns.RR) bool {
		if !strings.EqualFold(have.Header().Name, h.Name) || h.Rrtype != dns.TypeANY && have.Header().Rrtype != h.Rrtype {
			return false
		}
		if h.Class == dns.ClassANY {
			return true
		}
		c := dns.Copy(rr)
		c.Header().Class = dns.ClassINET
		return dns.IsDuplicate(have, c)
	}
	e.zone = slices.DeleteFunc(e.zone, gone)
	if h.Class == dns.ClassINET {
		e.zone = append(e.zone, rr)
	}
}

func (e *elsewhere) lines() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, rr := range e.zone {
		out = append(out, line(rr))
	}
	slices.Sort(out)
	return out
}

// startElsewhere runs it on a loopback port with some records that are not ours.
func startElsewhere(t *testing.T, records ...string) (*elsewhere, string) {
	t.Helper()
	e := &elsewhere{}
	for _, r := range records {
		rr, err := dns.NewRR(r)
		require.NoError(t, err)
		e.zone = append(e.zone, rr)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	started := make(chan struct{})
	s := &dns.Server{Listener: l, Handler: e, TsigSecret: map[string]string{testKey: testSecret},
		NotifyStartedFunc: func() { close(started) },
		MsgAcceptFunc:     func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown())
		require.NoError(t, <-done)
	})
	return e, l.Addr().String()
}

func updater(t *testing.T, server string, change func(*UpdaterOptions)) *Updater {
	t.Helper()
	o := UpdaterOptions{Server: server, KeyName: testKey, Secret: testSecret}
	if change != nil {
		change(&o)
	}
	u, err := NewUpdater(o)
	require.NoError(t, err)
	return u
}

func TestPushIsTheDifference(t *testing.T) {
	e, addr := startElsewhere(t, "www.orama.test. 60 IN A 192.0.2.1", "orama.test. 60 IN A 192.0.2.1", "ns-.orama.test. 60 IN A 192.0.2.1")
	before := e.lines()
	u := updater(t, addr, nil)
	p := &Pusher{Provider: u, Zone: "orama.test", Base: "orama.test"}
	want := []orama.DNSRecord{
		rec("orama.test", "203.0.113.1"), rec("ns1.orama.test", "203.0.113.1"), rec("turn.example.org", "203.0.113.1"), // not a namespace's
		rec("ns-demo.orama.test", "203.0.113.1"), rec("turn.ns-demo.orama.test", "203.0.113.1"), rec("turn.ns-demo.orama.test", "203.0.113.2"),
		rec("turn-1.ns-demo.orama.test", "2001:db8::1"), rec("turn-1.ns-demo.orama.test", "2001:db8::1"),
	}
	changed, err := p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, 5, changed)
	demo := []string{
		"_orama.ns-demo.orama.test TXT " + markText, "ns-demo.orama.test A 203.0.113.1",
		"turn-1.ns-demo.orama.test AAAA 2001:db8::1", "turn.ns-demo.orama.test A 203.0.113.1", "turn.ns-demo.orama.test A 203.0.113.2",
	}
	require.ElementsMatch(t, append(demo, before...), e.lines())
	sent := e.updates
	changed, err = p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Zero(t, changed)
	require.Equal(t, sent, e.updates, "nothing is sent when all is right")

	want[5].Value = netip.MustParseAddr("203.0.113.3")
	changed, err = p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, 2, changed)
	require.Contains(t, e.lines(), "turn.ns-demo.orama.test A 203.0.113.3")
	require.NotContains(t, e.lines(), "turn.ns-demo.orama.test A 203.0.113.2")

	proofs := []libdns.Record{libdns.TXT{Name: "_acme-challenge.ns-demo", Text: "left"}, libdns.TXT{Name: "_acme-challenge.ns-theirs", Text: "kept"}}
	_, err = u.AppendRecords(t.Context(), "orama.test", proofs)
	require.NoError(t, err)
	_, err = p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Contains(t, e.lines(), "_acme-challenge.ns-demo.orama.test TXT left", "an order may be under way")
	_, err = p.Push(t.Context(), nil)
	require.NoError(t, err)
	require.ElementsMatch(t, append(before, "_acme-challenge.ns-theirs.orama.test TXT kept"), e.lines(), "nothing of it is left, and nothing else is gone")
}

// Names that look like ours but do not bear the mark are left alone, and said.
func TestForeignNamesAreNotTouched(t *testing.T) {
	e, addr := startElsewhere(t, "turn.ns-demo.orama.test. 60 IN A 192.0.2.1", "turn.ns-idle.orama.test. 60 IN A 192.0.2.2",
		"mail.ns-ours.orama.test. 60 IN A 192.0.2.3", "ns-ours.orama.test. 60 IN TXT \"v=spf1\"")
	before := e.lines()
	p := &Pusher{Provider: updater(t, addr, nil), Zone: "orama.test", Base: "orama.test"}
	want := []orama.DNSRecord{rec("turn.ns-demo.orama.test", "203.0.113.1"), rec("turn.ns-ours.orama.test", "203.0.113.1")}
	_, err := p.Push(t.Context(), want)
	require.Equal(t, orama.KindConflict, orama.KindOf(err))
	require.ErrorContains(t, err, "ns-demo")
	require.NotContains(t, err.Error(), "ns-idle")
	require.Subset(t, e.lines(), before)
	require.Contains(t, e.lines(), "turn.ns-ours.orama.test A 203.0.113.1", "the others have been seen to")
	_, err = p.Push(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, before, e.lines())
}

// From whatever is there, one push makes it right, a second changes nothing, and what is foreign stays.
func TestPushConverges(t *testing.T) {
	names := []string{"turn.ns-aa.orama.test", "ns-aa.orama.test", "turn-1.ns-bb.orama.test", "turn.ns-bb.orama.test"}
	foreign := []string{"turn-0.ns-aa.orama.test", "www.orama.test", "x.turn.ns-aa.orama.test", "turnx.ns-bb.orama.test"}
	rapid.Check(t, func(t *rapid.T) {
		m := &memory{}
		for _, n := range foreign {
			m.all = append(m.all, libdns.Address{Name: libdns.RelativeName(n, "orama.test"), IP: netip.MustParseAddr("192.0.2.1")})
		}
		p := &Pusher{Provider: m, Zone: "orama.test", Base: "orama.test"}
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			var want []orama.DNSRecord
			for range rapid.IntRange(0, 6).Draw(t, "records") {
				want = append(want, rec(rapid.SampledFrom(names).Draw(t, "name"), fmt.Sprintf("203.0.113.%d", rapid.IntRange(1, 3).Draw(t, "addr"))))
			}
			_, err := p.Push(context.Background(), want)
			require.NoError(t, err)
			expect := map[string]bool{}
			for _, w := range want {
				expect[w.Name+" "+w.Value.String()] = true
			}
			got := map[string]bool{}
			kept := 0
			for _, r := range m.all {
				name := libdns.AbsoluteName(r.RR().Name, "orama.test")
				if a, ok := r.(libdns.Address); ok && !slices.Contains(foreign, name) {
					got[name+" "+a.IP.String()] = true
				} else if ok {
					kept++
				}
			}
			require.Equal(t, expect, got)
			require.Equal(t, len(foreign), kept)
			if len(want) == 0 {
				require.Len(t, m.all, len(foreign), "the marks are gone, too")
			}
			changed, err := p.Push(context.Background(), want)
			require.NoError(t, err)
			require.Zero(t, changed)
		}
	})
}

// memory is a provider as libdns has many.
type memory struct{ all []libdns.Record }

func (m *memory) GetRecords(context.Context, string) ([]libdns.Record, error) {
	return slices.Clone(m.all), nil
}

func (m *memory) AppendRecords(_ context.Context, _ string, recs []libdns.Record) ([]libdns.Record, error) {
	for _, r := range recs {
		parsed, err := r.RR().Parse()
		if err != nil {
			return nil, err
		}
		m.all = append(m.all, parsed)
	}
	return recs, nil
}

func (m *memory) DeleteRecords(_ context.Context, _ string, recs []libdns.Record) ([]libdns.Record, error) {
	for _, r := range recs {
		m.all = slices.DeleteFunc(m.all, func(h libdns.Record) bool {
			return h.RR().Name == r.RR().Name && h.RR().Type == r.RR().Type && h.RR().Data == r.RR().Data
		})
	}
	return recs, nil
}

func TestUpdaterAsAProvider(t *testing.T) {
	e, addr := startElsewhere(t)
	u := updater(t, addr, func(o *UpdaterOptions) { o.Algorithm = "hmac-sha512"; o.KeyName = "Orama-Key" })
	long := strings.Repeat("long ", 100) + `"quoted" \back` + "\x07\xe2\x82\xac"
	recs := []libdns.Record{
		libdns.TXT{Name: "_acme-challenge.ns-demo", Text: "one", TTL: time.Minute}, libdns.TXT{Name: "_acme-challenge.ns-demo", Text: "two", TTL: time.Minute},
		libdns.TXT{Name: "long", Text: long, TTL: time.Minute}, libdns.RR{Name: "m", Type: "MX", Data: "10 mail.example.", TTL: time.Minute},
		libdns.RR{Name: "@", Type: "A", Data: "203.0.113.1", TTL: time.Minute}, libdns.Address{Name: "six", IP: netip.MustParseAddr("2001:db8::1"), TTL: time.Minute},
	}
	_, err := u.AppendRecords(t.Context(), "orama.test.", recs)
	require.NoError(t, err)
	_, err = u.AppendRecords(t.Context(), "orama.test.", recs)
	require.NoError(t, err)
	require.Len(t, e.lines(), len(recs), "added once")
	got, err := u.GetRecords(t.Context(), "orama.test.")
	require.NoError(t, err)
	require.Contains(t, got, recs[2])
	require.Contains(t, got, recs[5])
	require.Contains(t, got, recs[3])

	_, err = u.DeleteRecords(t.Context(), "orama.test.", recs[:1])
	require.NoError(t, err)
	require.NotContains(t, e.lines(), "_acme-challenge.ns-demo.orama.test TXT one")
	require.Contains(t, e.lines(), "_acme-challenge.ns-demo.orama.test TXT two")
	_, err = u.SetRecords(t.Context(), "orama.test.", []libdns.Record{libdns.TXT{Name: "_acme-challenge.ns-demo", Text: "three"}})
	require.NoError(t, err)
	require.NotContains(t, e.lines(), "_acme-challenge.ns-demo.orama.test TXT two")
	_, err = u.DeleteRecords(t.Context(), "orama.test.", []libdns.Record{libdns.RR{Name: "_acme-challenge.ns-demo", Type: "TXT"}})
	require.NoError(t, err)
	require.Len(t, e.lines(), 4)

	for _, bad := range []libdns.Record{
		libdns.RR{Name: "a", Type: "A", Data: "nonsense"}, libdns.RR{Name: "a", Type: "NONE-SUCH", Data: "x"}, libdns.RR{Name: "a b", Type: "TXT", Data: "x"},
		libdns.RR{Name: "a", Type: "MX", Data: "nonsense"},
	} {
		_, err := u.AppendRecords(t.Context(), "orama.test.", []libdns.Record{bad})
		require.Error(t, err, "%v", bad)
	}
	many := make([]libdns.Record, 450)
	for i := range many {
		many[i] = libdns.TXT{Name: fmt.Sprintf("t%d", i), Text: strings.Repeat("x", 200)}
	}
	sent := e.updates
	_, err = u.AppendRecords(t.Context(), "orama.test.", many)
	require.NoError(t, err)
	require.Equal(t, sent+3, e.updates)
	_, err = u.SetRecords(t.Context(), "orama.test.", many)
	require.Error(t, err)
}

func TestFindZone(t *testing.T) {
	_, addr := startElsewhere(t)
	u := updater(t, addr, nil)
	zone, err := u.FindZone(t.Context(), "deep.below.orama.test")
	require.NoError(t, err)
	require.Equal(t, "orama.test.", zone)
	_, err = u.FindZone(t.Context(), "example.org")
	require.ErrorContains(t, err, "does not allow")
}

func TestAServerThatDoesNotTakeTheKey(t *testing.T) {
	e, addr := startElsewhere(t)
	other := base64.StdEncoding.EncodeToString([]byte("another"))
	for _, u := range []*Updater{
		updater(t, addr, func(o *UpdaterOptions) { o.Secret = other }),
		updater(t, addr, func(o *UpdaterOptions) { o.KeyName = "nobody" }),
	} {
		_, err := u.AppendRecords(t.Context(), "orama.test", []libdns.Record{libdns.TXT{Name: "t", Text: "x"}})
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
		require.ErrorContains(t, err, "does not accept the key")
		require.NotContains(t, err.Error(), other)
		_, err = u.GetRecords(t.Context(), "orama.test")
		require.ErrorContains(t, err, "must allow it to the key")
	}
	require.Empty(t, e.lines())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	_, err = updater(t, l.Addr().String(), nil).FindZone(t.Context(), "orama.test")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
}

func TestKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, []byte(testSecret+"\n"), 0o640))
	got, err := LoadKey(path)
	require.NoError(t, err)
	require.Equal(t, testSecret, got)
	require.NoError(t, os.Chmod(path, 0o644))
	_, err = LoadKey(path)
	require.ErrorContains(t, err, "chmod")
	_, err = LoadKey(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
	for _, o := range []UpdaterOptions{
		{KeyName: "k", Secret: "not base64!"}, {KeyName: "k"}, {Secret: testSecret}, {KeyName: "k", Secret: testSecret, Algorithm: "md5"},
	} {
		_, err := NewUpdater(o)
		require.Error(t, err)
		if o.Secret != "" {
			require.NotContains(t, err.Error(), o.Secret)
		}
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add(`a\"b\\c\065`)
	f.Add(`\`)
	f.Add(`\25`)
	f.Fuzz(func(t *testing.T, s string) {
		unescape(s)
		require.Equal(t, s, unescape(escape(s)))
	})
}

// txtRecords is the records' side of Challenges.
type txtRecords struct{ kept []orama.TXTRecord }

func (r *txtRecords) SetTXT(_ context.Context, t orama.TXTRecord, _ time.Time) error {
	r.kept = append(r.kept, t)
	return nil
}

func (r *txtRecords) RemoveTXT(_ context.Context, name, value string) error {
	r.kept = slices.DeleteFunc(r.kept, func(t orama.TXTRecord) bool { return t.Name == name && t.Value == value })
	return nil
}

func TestChallengesAreRecords(t *testing.T) {
	r := &txtRecords{}
	c := Challenges{Records: r}
	two := []libdns.Record{libdns.RR{Name: "_acme-challenge", Type: "TXT", Data: "one", TTL: 10 * time.Second}, libdns.TXT{Name: "_ACME-challenge", Text: "two"}}
	out, err := c.AppendRecords(t.Context(), "Orama.test.", two)
	require.NoError(t, err)
	require.Len(t, out, 2)
	require.Equal(t, "_acme-challenge.orama.test", r.kept[0].Name)
	require.Equal(t, "_acme-challenge.orama.test", r.kept[1].Name)
	require.Equal(t, 10, r.kept[0].TTL)
	require.WithinDuration(t, time.Now().Add(challengeLife), r.kept[0].Expires, time.Minute)
	_, err = c.DeleteRecords(t.Context(), "orama.test.", out[:1])
	require.NoError(t, err)
	require.Len(t, r.kept, 1)
	require.Equal(t, "two", r.kept[0].Value)
	_, err = c.AppendRecords(t.Context(), "orama.test.", []libdns.Record{libdns.RR{Name: "a", Type: "A", Data: "192.0.2.1"}})
	require.Error(t, err)
}

// Against a name server that others wrote.
func TestKnot(t *testing.T) {
	knotd := tool(t, "knotd")
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close()) // knotd cannot be given a socket; nobody else takes a port of this address so soon
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	for _, d := range []string{"run", "db", "zones"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	zone := "$ORIGIN orama.test.\n$TTL 60\n@ SOA ns h 1 60 60 60 60\n@ NS ns\nns A 192.0.2.53\nwww A 192.0.2.1\nturn.ns-theirs A 192.0.2.2\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "zones", "orama.test.zone"), []byte(zone), 0o600))
	conf := fmt.Sprintf(`server:
    rundir: %[1]s/run
    listen: %[2]s@%[3]s
database:
    storage: %[1]s/db
log:
  - target: stderr
    any: info
key:
  - id: orama-key
    algorithm: hmac-sha256
    secret: %[4]s
acl:
  - id: orama
    key: orama-key
    action: [update, transfer]
zone:
  - domain: orama.test
    storage: %[1]s/zones
    file: orama.test.zone
    acl: orama
`, dir, host, port, testSecret)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "knot.conf"), []byte(conf), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd := exec.Command(knotd, "-c", filepath.Join(dir, "knot.conf"))
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		_ = cmd.Wait() // ended by us
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("knotd said:\n%s", text)
		}
	})
	u := updater(t, addr, nil)
	require.Eventually(t, func() bool {
		_, err := u.FindZone(t.Context(), "x.orama.test")
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)

	p := &Pusher{Provider: u, Zone: "orama.test.", Base: "orama.test"}
	before, err := u.GetRecords(t.Context(), "orama.test.")
	require.NoError(t, err)
	want := []orama.DNSRecord{rec("turn.ns-demo.orama.test", "203.0.113.1"), rec("turn.ns-demo.orama.test", "203.0.113.2"), rec("turn-1.ns-demo.orama.test", "2001:db8::1")}
	changed, err := p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, 4, changed)
	answers := data(ask(t, "udp", addr, "turn.ns-demo.orama.test", dns.TypeA).Answer)
	require.ElementsMatch(t, []string{"203.0.113.1", "203.0.113.2"}, answers)
	changed, err = p.Push(t.Context(), want)
	require.NoError(t, err)
	require.Zero(t, changed)
	_, err = p.Push(t.Context(), append(want, rec("turn.ns-theirs.orama.test", "203.0.113.1")))
	require.Equal(t, orama.KindConflict, orama.KindOf(err))

	challenge := []libdns.Record{libdns.TXT{Name: "_acme-challenge.ns-demo", Text: "proof", TTL: time.Minute}}
	_, err = u.AppendRecords(t.Context(), "orama.test.", challenge)
	require.NoError(t, err)
	require.Equal(t, []string{`"proof"`}, data(ask(t, "tcp", addr, "_acme-challenge.ns-demo.orama.test", dns.TypeTXT).Answer))
	_, err = u.DeleteRecords(t.Context(), "orama.test.", challenge)
	require.NoError(t, err)

	_, err = p.Push(t.Context(), nil)
	require.NoError(t, err)
	after, err := u.GetRecords(t.Context(), "orama.test.")
	require.NoError(t, err)
	isSOA := func(r libdns.Record) bool { return r.RR().Type == "SOA" } // its serial rose
	require.ElementsMatch(t, slices.DeleteFunc(before, isSOA), slices.DeleteFunc(after, isSOA))
	_, err = updater(t, addr, func(o *UpdaterOptions) { o.Secret = base64.StdEncoding.EncodeToString([]byte("no")) }).
		AppendRecords(t.Context(), "orama.test.", challenge)
	require.ErrorContains(t, err, "does not accept the key")
}
