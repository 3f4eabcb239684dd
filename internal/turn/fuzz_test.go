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

	"orama.network/orama/internal/auth"
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
		rest := in
		for p := make([]byte, 1600); ; {
			n, _, err := s.ReadFrom(p)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errFraming) {
					t.Fatal(err)
				}
				if len(rest) >= 4 && errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					if size, padding, err := frame(rest); err == nil && size+padding <= len(rest) {
						t.Fatalf("a whole frame of %d bytes was left", size)
					}
				}
				return
			}
			if n < 4 || n >= maxFrame || !bytes.Equal(p[:n], rest[:n]) {
				t.Fatalf("a frame of %d bytes that was not sent", n)
			}
			length := int(binary.BigEndian.Uint16(rest[2:]))
			if rest[0]>>6 == 1 {
				n += -length & 3
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

// Whatever a client sends, the gate neither panics nor takes it for somebody's request.
func FuzzGate(f *testing.F) {
	secret := "a secret of the test"
	user, credential := auth.MintTURN(secret, alpha, time.Unix(4e9, 0))
	key := stun.NewLongTermIntegrity(user, realm, credential)
	for _, method := range []stun.Method{
		stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind, stun.MethodConnect, stun.MethodBinding,
	} {
		m := stun.MustBuild(stun.TransactionID, stun.NewType(method, stun.ClassRequest), requestedTransport(protoUDP), seconds(0),
			peer(netip.MustParseAddrPort("10.0.0.1:1")), stun.NewUsername(user), stun.NewRealm(realm), stun.NewNonce("n"), key)
		f.Add(m.Raw)
	}
	f.Add([]byte{0x40, 0, 0, 0})
	f.Add(append([]byte{0, 0x16, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := New(discard(), nil)
		s.realm, s.relayIP, s.limits = realm, netip.MustParseAddr("127.0.0.1"), Limits{}.orDefaults()
		s.answers = newBudget(1, 1)
		s.setTenants(nil, endRemoved)
		one := newTenant(alpha, secret)
		s.tenants()[alpha] = one
		sink := &sink{}
		g := newGate(s, transportUDP, sink)
		g.replays = newReplays()
		passed := g.admit(in, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9})
		q := g.current
		if q.tenant != nil {
			m := &stun.Message{Raw: bytes.Clone(in)}
			if m.Decode() != nil || q.key.Check(m) != nil {
				t.Fatal("accepted without integrity")
			}
		}
		if passed && sink.written > 0 {
			t.Fatal("answered twice")
		}
		g.WriteTo(in, &net.UDPAddr{}) //nolint:errcheck // must not panic either
	})
}

type sink struct{ written int }

func (s *sink) ReadFrom([]byte) (int, net.Addr, error)    { return 0, nil, net.ErrClosed }
func (s *sink) WriteTo(p []byte, _ net.Addr) (int, error) { s.written++; return len(p), nil }
func (s *sink) LocalAddr() net.Addr                       { return &net.UDPAddr{} }
func (s *sink) Close() error                              { return nil }

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
