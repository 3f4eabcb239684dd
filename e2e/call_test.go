//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Two tabs of Chromium and one Firefox talk; a fourth tab comes late; two leave. With every way to
// the relay that a browser has.
func TestCall(t *testing.T) {
	// What a client is given that asks for nothing is udp and tcp: which of them wins is the browser's choice.
	for way, transports := range map[string][]string{"anyhow": {"udp", "tcp"}, "tcp": {"tcp"}, "tls": {"tls"}} {
		t.Run(way, func(t *testing.T) {
			c := up(t)
			var asked []string
			if len(transports) == 1 {
				asked = transports
			}
			m := c.meeting(t, c.Namespace, "call-"+way, asked...)
			m.enter(chromium, "ada")
			bob := m.enter(chromium, "bob")
			m.enter(firefox, "cleo")
			m.allMeet(20 * time.Second)
			for _, p := range m.people {
				for _, x := range m.pairs(p) {
					require.Contains(t, transports, x.RelayProtocol, "%s does not use what it was given: %+v", p.user, x)
					t.Logf("%s: %s to the relay at %s, from there to %s", p.user, x.RelayProtocol, x.Relay, x.SFU)
				}
			}
			m.chat()

			dan := m.enter(chromium, "dan")
			saw := dan.until(10*time.Second, "a first frame of each", "__probe.inbound().then((all) => all.filter((x) => x.frames > 0).length >= 3)")
			late := saw.since(dan.began)
			var joined moment
			dan.eval(&joined, "return participant.joined")
			t.Logf("dan is in the room %s after join()", ms(joined.since(dan.began)))
			t.Logf("dan, late, decodes video of all three %s after join()", ms(late))
			require.Less(t, late, time.Second, "a late joiner waits for video: join() at %.0f; %s", dan.began, dan.state())
			m.allMeet(10 * time.Second)
			m.chat()

			var left moment
			bob.eval(&left, "const now = Date.now(); participant.room.leave(); return now")
			m.gone(bob, left)
			closed := at(time.Now())
			dan.close()
			m.gone(dan, closed)
			m.allMeet(5 * time.Second)
		})
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
