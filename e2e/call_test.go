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
	for _, way := range []struct {
		transport string
		asked     []string
	}{
		{"udp", nil}, // what a client is given that asks for nothing
		{"tcp", []string{"tcp"}},
		{"tls", []string{"tls"}},
	} {
		t.Run(way.transport, func(t *testing.T) {
			c := up(t)
			m := c.meeting(t, c.Namespace, "call-"+way.transport, way.asked...)
			m.enter(chromium, "ada")
			bob := m.enter(chromium, "bob")
			m.enter(firefox, "cleo")
			m.allMeet(20 * time.Second)
			for _, p := range m.people {
				for _, x := range m.pairs(p) {
					require.Equal(t, way.transport, x.RelayProtocol, "%s does not use what it was given: %+v", p.user, x)
				}
			}
			m.chat()

			dan := m.enter(chromium, "dan")
			saw := dan.until(10*time.Second, "a first frame of each", "__probe.inbound().then((all) => all.filter((x) => x.frames > 0).length >= 3)")
			late := saw.since(dan.began)
			t.Logf("dan, late, decodes video of all three %s after join()", ms(late))
			require.Less(t, late, time.Second, "a late joiner waits for video")
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
