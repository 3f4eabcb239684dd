package probe

import (
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// nameServer answers over UDP, and over TCP on the same port, as handle says.
func nameServer(t *testing.T, handle dns.HandlerFunc) string {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	require.NoError(t, err)
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handle}, {Listener: l, Handler: handle}} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(done); s.ActivateAndServe() }() //nolint:errcheck // it ends by Shutdown
		<-started
		t.Cleanup(func() { s.Shutdown(); <-done }) //nolint:errcheck // as above
	}
	return pc.LocalAddr().String()
}

func TestLookup(t *testing.T) {
	at := nameServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		add := func(text string) {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Error(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		switch q.Question[0].Name {
		case "turn.ns-myapp.orama.test.":
			add("turn.ns-myapp.orama.test. 60 A 192.0.2.1")
			add("turn.ns-myapp.orama.test. 60 A 192.0.2.2")
		case "txt.orama.test.":
			add("txt.orama.test. 60 TXT hello")
		case "big.orama.test.":
			if w.LocalAddr().Network() == "udp" {
				m.Truncated = true
			} else {
				add("big.orama.test. 60 A 192.0.2.3")
			}
		case "broken.orama.test.":
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m) //nolint:errcheck // the client went away
	})
	ask := func(name string) string {
		got, err := Lookup(bounded(t, 5*time.Second), at, name)
		if err != nil {
			return err.Error()
		}
		var out string
		for _, a := range got {
			out += a.String() + " "
		}
		return out
	}
	require.Equal(t, "192.0.2.1 192.0.2.2 ", ask("turn.ns-myapp.orama.test"))
	require.Equal(t, "192.0.2.3 ", ask("big.orama.test"), "what does not fit is asked for over TCP")
	require.Empty(t, ask("nothing.orama.test"))
	require.Empty(t, ask("txt.orama.test"))
	require.Contains(t, ask("broken.orama.test"), "SERVFAIL")
	_, err := Lookup(bounded(t, time.Second), "no port", "x")
	require.ErrorContains(t, err, "HOST:PORT")
}

func TestNameServerThatIsSilent(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	_, err = Lookup(bounded(t, 200*time.Millisecond), pc.LocalAddr().String(), "x.orama.test")
	require.ErrorContains(t, err, "no answer")
}
