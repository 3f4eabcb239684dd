//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Two tabs of Chromium and one Firefox talk; a fourth tab comes late; two leave. With every way to
// the relay that a browser has.
func TestCall(t *testing.T) {
	// What a client is given that asks for nothing is udp and tcp: which of them wins is the browser's choice.
	for _, way := range []struct {
		name  string
		asked []string
		may   []string
		only  string
	}{
		{"anyhow", nil, []string{"udp", "tcp"}, ""},
		{"udp", []string{"udp"}, []string{"udp"}, ""},
		{"tcp", []string{"tcp"}, []string{"tcp"}, ""},
		{"tls", []string{"tls"}, []string{"tls"}, ""},
		{"443", []string{"tls"}, []string{"tls"}, `^turns:[^:]*:443\?`}, // a firewall that lets nothing but HTTPS through
	} {
		t.Run(way.name, func(t *testing.T) {
			c := up(t)
			m := c.meeting(t, c.Namespace, "call-"+way.name, way.asked...)
			m.only = way.only
			m.enter(chromium, "ada")
			bob := m.enter(chromium, "bob")
			m.enter(firefox, "cleo")
			m.allMeet(20 * time.Second)
			for _, p := range m.people {
				for _, x := range m.pairs(p) {
					require.Contains(t, way.may, x.RelayProtocol, "%s does not use what it was given: %+v", p.user, x)
					if way.only != "" && x.URL != "" {
						require.Regexp(t, way.only, x.URL)
					}
					t.Logf("%s: %s to the relay at %s, from there to %s", p.user, x.RelayProtocol, x.Relay, x.SFU)
				}
			}
			m.chat()

			dan := m.late("dan")
			m.allMeet(10 * time.Second)
			m.chat()

			var left moment
			bob.eval(&left, "const now = Date.now(); participant.room.leave(); return now")
			m.gone(bob, left)
			dan.close()
			closed := at(time.Now())
			m.gone(dan, closed)
			m.allMeet(5 * time.Second)
		})
	}
}

// late is somebody who comes to a call that runs. Without a keyframe at once nobody sees video within a second;
// with it, a machine that is busy elsewhere may need another try.
func (m *meeting) late(user string) *person {
	m.t.Helper()
	others := len(m.people)
	for try := 1; ; try++ {
		p := m.enter(chromium, fmt.Sprintf("%s-%d", user, try))
		saw := p.until(10*time.Second, "a first frame of each", "__probe.inbound().then((all) => all.filter((x) => x.frames > 0).length >= args[0])", others)
		var joined moment
		p.eval(&joined, "return participant.joined")
		took := saw.since(p.began)
		m.t.Logf("%s, late, is in the room %s after join() and decodes video of all %d after %s", p.user, ms(joined.since(p.began)), others, ms(took))
		if took < time.Second {
			return p
		}
		if try >= 3 && took < held(m.t, time.Second, p.began.time()) {
			return p
		}
		require.Less(m.t, try, 5, "a late joiner waits for video: join() at %.0f; %s", p.began, p.state())
		p.close()
		m.people = m.without(p)
	}
}

// BenchmarkJoin gives the time from opening the socket to the first decoded frame, for somebody who
// comes to a call of two.
func BenchmarkJoin(b *testing.B) {
	c := up(b)
	m := c.meeting(b, c.Namespace, "bench")
	m.enter(chromium, "ada")
	m.enter(chromium, "bob")
	m.allMeet(20 * time.Second)
	var sum time.Duration
	for b.Loop() {
		p := m.enter(chromium, "visitor")
		saw := p.until(10*time.Second, "a first frame", "__probe.inbound().then((all) => all.some((x) => x.frames > 0))")
		var opened moment
		p.eval(&opened, "return __probe.sockets[0].opening")
		sum += saw.since(opened)
		p.close()
		m.people = m.without(p)
	}
	b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), "ms/join")
	b.ReportMetric(0, "ns/op") // most of it is opening a tab
}
