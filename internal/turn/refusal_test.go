package turn

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
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

// A request that is refused leaves nothing behind for the next one on its way in. It did: after a Refresh that got 437
// under a good signature, an Allocate with an expired credential of the same key opened a relay, as did one without a username.
func TestRefusalLeavesNoCredentialBehind(t *testing.T) {
	for _, transport := range transports {
		h := newHost(t)
		h.t = t
		user, credential := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(-time.Minute))
		c := h.ready(transport, alpha)
		c.as(user, credential)
		require.Equal(t, 437, errorCode(c.refresh()), "a credential's expiry is asked on Allocate alone")
		require.Equal(t, 401, errorCode(c.do(stun.MethodAllocate, requestedTransport(protoUDP))), "over %s", transport)
		require.Zero(t, h.allocations(alpha), "an expired credential opened a relay over %s", transport)
	}
}

// Every attribute that says who is there in every length: a refusal or nothing.
func TestCredentialsOfWrongLength(t *testing.T) {
	h := newHost(t)
	c := h.ready("udp", alpha)
	c.refresh()
	for _, which := range []stun.AttrType{stun.AttrUsername, stun.AttrRealm, stun.AttrNonce} {
		for _, n := range append(wrongLengths, 63, 64, 65, 127, 128, 129, 509, 513, 763, 764) {
			p := newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP))
			for _, a := range []struct {
				t stun.AttrType
				v []byte
			}{{stun.AttrUsername, []byte(c.user)}, {stun.AttrRealm, []byte(realm)}, {stun.AttrNonce, c.nonce}} {
				if a.t == which {
					a.v = bytes.Repeat([]byte("0"), n)
				}
				p.add(a.t, a.v)
			}
			if a := c.exchange(p.sign(c)); a != nil {
				require.Contains(t, []int{400, 401, 438}, errorCode(a), "%s of %d bytes: %s %x", which, n, a, a.Raw)
			}
		}
	}
	require.Zero(t, h.allocations(alpha))
	c.allocate()
}

// A length that the RFCs do not know is 400, whichever attribute has it (RFC 8489 section 14, RFC 8656 section 18).
func TestAttributesOfWrongLengthAreRefused(t *testing.T) {
	h := newHost(t)
	for _, f := range fixed {
		t.Run(f.method.String()+" "+f.attr.String(), func(t *testing.T) {
			c := h.client("udp", alpha)
			c.t = t
			if f.method != stun.MethodAllocate {
				c.allocate()
			}
			for _, n := range wrongLengths {
				if slices.Contains(f.right, n) {
					continue
				}
				a := c.exchange(c.forgeFixed(f, make([]byte, n)))
				require.NotNil(t, a, "%d bytes", n)
				require.Equal(t, 400, errorCode(a), "%d bytes", n)
			}
		})
	}
}

// What a native client says at once after its handshake is heard. The library keeps one datagram that comes before its own
// handshake is over; a client that says more at once repeats it, as over UDP.
func TestEarlyDataOverDTLS(t *testing.T) {
	h := newHost(t)
	for i := range 40 {
		c := h.client("dtls", alpha)
		p := newPacket(stun.MethodBinding, stun.ClassRequest)
		c.write(p.b)
		require.NotNil(t, c.answer(p.id(), patience), "client %d", i)
		c.conn.Close()
	}
}
