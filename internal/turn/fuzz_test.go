package turn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/turn/wire"
)

// A stream of any bytes in pieces of any size gives frames that fit, in the order they came, and
// never waits when it could go on.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 1, 9, 0, 0, 0, 0x40, 1, 0, 4, 1, 2, 3, 4}, uint8(3))
	f.Add(append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...), uint8(1))
	f.Add([]byte{0, 1, 0xff, 0xfc}, uint8(2))
	f.Add([]byte{0x40, 0, 0xff, 0xff}, uint8(200))
	f.Add([]byte{0x80, 0, 0, 0}, uint8(4))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		s := newStream(&pieces{Reader: bytes.NewReader(in), step: max(1, int(step))})
		for rest := in; ; {
			b, _, err := s.next()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, errFraming) {
					t.Fatal(err)
				}
				if len(rest) >= 4 && errors.Is(err, io.EOF) {
					if size, padding, ok := wire.FrameSize(rest); ok && size+padding <= len(rest) {
						t.Fatalf("a whole frame of %d bytes was left", size)
					}
				}
				return
			}
			n := len(b)
			if n < 4 || n >= maxFrame || !bytes.Equal(b, rest[:n]) {
				t.Fatalf("a frame of %d bytes that was not sent", n)
			}
			if rest[0]>>6 == 1 {
				n += -int(binary.BigEndian.Uint16(rest[2:])) & 3
			}
			rest = rest[n:]
		}
	})
}

type pieces struct {
	net.Conn
	io.Reader
	step int
}

func (p *pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.step)]) }
func (p *pieces) RemoteAddr() net.Addr       { return &net.TCPAddr{} }

// Whatever a client sends, the engine neither panics nor takes it for somebody's request, and an answer to a stranger is
// short.
func FuzzEngine(f *testing.F) {
	secret := "a secret of the test"
	user, credential := auth.MintTURN(secret, alpha, time.Unix(4e9, 0))
	key := stun.NewLongTermIntegrity(user, realm, credential)
	from := netip.MustParseAddrPort("192.0.2.1:9")
	s := New(discard(), nil)
	s.realm, s.realmBytes, s.addresses.relay, s.limits = realm, []byte(realm), netip.MustParseAddr("127.0.0.1"), Limits{}.orDefaults()
	s.answers, s.failures, s.nonces = newBudget(1e9, 1e9), newBudget(1e9, 1e9), newNonces()
	s.draining.Store(true) // nothing is opened
	s.table.Store(&map[orama.NamespaceID]*tenant{alpha: newTenant(alpha, secret)})
	nonce := stun.NewNonce(string(s.nonces.put(nil, false, transportUDP, from, s.now())))
	for _, method := range []stun.Method{
		stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind, stun.MethodConnect, stun.MethodBinding,
	} {
		m := stun.MustBuild(stun.TransactionID, stun.NewType(method, stun.ClassRequest), requestedTransport(protoUDP), seconds(0),
			peer(netip.MustParseAddrPort("10.0.0.1:1")), stun.NewUsername(user), stun.NewRealm(realm), nonce, key)
		f.Add(m.Raw)
	}
	f.Add([]byte{0x40, 0, 0, 0})
	f.Add(append([]byte{0, 0x16, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		e := &engine{srv: s, transport: transportUDP, replays: newReplays()}
		answer := e.handle(bytes.Clone(in), &asker{from: from, seat: func(*relay) { t.Fatal("opened while draining") }})
		if answer == nil {
			return
		}
		m := &stun.Message{Raw: answer}
		if err := m.Decode(); err != nil {
			t.Fatal(err)
		}
		q := &stun.Message{Raw: bytes.Clone(in)}
		if m.Contains(stun.AttrMessageIntegrity) && (q.Decode() != nil || key.Check(q) != nil) {
			t.Fatal("signed an answer to somebody else")
		}
		if len(answer) > maxFactor*len(in) {
			t.Fatalf("%d bytes for %d", len(answer), len(in))
		}
	})
}

// Any bytes for a ClientHello: at most maxHello are kept, and they are the first that came.
func FuzzClientHello(f *testing.F) {
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(recordedHello("turn.ns-alpha.orama.test"))
	f.Fuzz(func(t *testing.T, in []byte) {
		name, read, ok := clientHello(&pieces{Reader: bytes.NewReader(in), step: 1 << 20})
		if len(read) > maxHello || !bytes.HasPrefix(in, read) {
			t.Fatalf("kept %d bytes", len(read))
		}
		if !ok && name != "" {
			t.Fatal("a name without a ClientHello")
		}
	})
}
