package dns

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
)

// TestMain is the tests, or the program of program_test.go when that runs this binary anew.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == beTheProgram {
		syscall.Exit(beProgram(os.Args[2:])) // os.Exit would have the race detector wait a second for reports
	}
	goleak.VerifyTestMain(m)
}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func rec(name, addr string) orama.DNSRecord {
	return orama.DNSRecord{Name: name, Value: netip.MustParseAddr(addr), TTL: 60}
}

func demoZone() Zone {
	return Zone{
		Base:        "orama.test",
		Nameservers: []string{"ns1.orama.test", "ns2.orama.test", "dns.elsewhere.example"},
		Serial:      7,
		Records: []orama.DNSRecord{
			rec("orama.test", "203.0.113.1"), rec("orama.test", "203.0.113.2"),
			rec("ns1.orama.test", "203.0.113.1"), rec("ns2.orama.test", "2001:db8::2"),
			rec("turn.ns-demo.orama.test", "203.0.113.1"), rec("turn.ns-demo.orama.test", "203.0.113.2"),
			rec("turn-1.ns-demo.orama.test", "203.0.113.1"), rec("turn-2.ns-demo.orama.test", "2001:db8::2"),
		},
		TXT:     []orama.TXTRecord{{Name: "_acme-challenge.ns-demo.orama.test", Value: `a "b" \c`, TTL: 5}, {Name: "_acme-challenge.ns-demo.orama.test", Value: "second", TTL: 9}},
		Issuers: []string{"letsencrypt.org"},
	}
}

// serve runs a server on a loopback port until the test ends.
func serve(t *testing.T, o Options, z Zone) (*Server, string) {
	t.Helper()
	if o.Listen == nil {
		o.Listen = []string{"127.0.0.1:0"}
	}
	o.Log = slog.New(slog.DiscardHandler)
	s := NewServer(o)
	if z.Base != "" {
		require.NoError(t, s.Set(z))
	}
	require.NoError(t, s.Listen())
	done := make(chan error, 1)
	ctx, stop := withCancel(t)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-done)
	})
	return s, s.Addrs()[0].String()
}

// ask sends a question as a resolver would.
func ask(t *testing.T, network, addr, name string, typ uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), typ)
	return send(t, network, addr, q)
}

func send(t *testing.T, network, addr string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network}
	m, _, err := c.ExchangeContext(t.Context(), q, addr)
	require.NoError(t, err)
	return m
}

// data gives the answers' data without owner and TTL, in order of arrival.
func data(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		out = append(out, rr.String()[len(rr.Header().String()):])
	}
	return out
}

// tool finds a program, or skips the test and says why.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not on the PATH", name)
	}
	return path
}
