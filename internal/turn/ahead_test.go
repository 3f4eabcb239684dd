package turn

import (
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// What issue 4 asks of the relay and the RFCs of a server, and what was not so when this was written.

// What a spoofed request makes the server send to a victim is at most three times what it cost (issue 4), from
// one answer; and nothing more comes by itself.
func TestReflection(t *testing.T) {
	long := strings.Repeat("r", 127)
	for _, name := range []string{realm, long} {
		h := newHost(t, func(h *host) { h.spec.Realm = name })
		for method, says := range map[stun.Method]string{
			stun.MethodBinding: "Binding", stun.MethodAllocate: "Allocate", stun.MethodRefresh: "Refresh",
			stun.MethodCreatePermission: "CreatePermission", stun.MethodChannelBind: "ChannelBind", stun.MethodConnect: "Connect", stun.Method(0x7ff): "unknown",
		} {
			for _, extra := range []int{0, 4, 8, 24, 100} {
				c := h.client("udp", alpha)
				p := newPacket(method, stun.ClassRequest)
				if extra > 0 {
					p.add(stun.AttrSoftware, make([]byte, extra-4))
				}
				c.write(p.b)
				got := 0
				for b := c.next(50 * time.Millisecond); b != nil; b = c.next(20 * time.Millisecond) {
					got += len(b)
				}
				if got > 3*len(p.b) {
					t.Errorf("%s of %d bytes with a realm of %d: %d bytes, %.1f times", says, len(p.b), len(name), got, float64(got)/float64(len(p.b)))
				}
			}
		}
	}
}
