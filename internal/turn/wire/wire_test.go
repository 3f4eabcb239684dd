package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	user, realm, password = "1700000000:alpha", "orama.test", "secret"
)

var transaction = []byte("transaction!")

// What is built here is what another library reads, and the other way round.
func TestAgreesWithAnotherLibrary(t *testing.T) {
	key := NewKey(user, realm, password)
	peer, mapped := netip.MustParseAddrPort("10.1.2.3:4567"), netip.MustParseAddrPort("[2001:db8::7]:89")
	var w Builder
	w.Begin(Allocate, Success, transaction)
	w.AddAddress(AttrXORRelayedAddress, peer)
	w.AddAddress(AttrXORMappedAddress, mapped)
	w.AddUint32(AttrLifetime, 600)
	w.Sign(key.For(false), SealSHA1)
	w.Fingerprint()
	m := &stun.Message{Raw: bytes.Clone(w.Bytes())}
	require.NoError(t, m.Decode())
	require.Equal(t, stun.NewType(stun.MethodAllocate, stun.ClassSuccessResponse), m.Type)
	require.NoError(t, stun.NewLongTermIntegrity(user, realm, password).Check(m))
	require.NoError(t, stun.Fingerprint.Check(m))
	var x stun.XORMappedAddress
	require.NoError(t, x.GetFrom(m))
	require.Equal(t, mapped.String(), x.String())
	require.NoError(t, x.GetFromAs(m, stun.AttrXORRelayedAddress))
	require.Equal(t, peer.String(), x.String())

	theirs := stun.MustBuild(stun.NewTransactionIDSetter([12]byte(transaction)), stun.NewType(stun.MethodCreatePermission, stun.ClassRequest),
		stun.NewUsername(user), stun.NewRealm(realm), stun.NewNonce("n"), &x, stun.NewLongTermIntegrity(user, realm, password), stun.Fingerprint)
	var ours Message
	require.NoError(t, ours.Parse(theirs.Raw))
	require.Equal(t, CreatePermission, ours.Method)
	require.Equal(t, Request, ours.Class)
	require.Equal(t, transaction, ours.Transaction())
	require.True(t, ours.Signed(key.For(false)))
	require.False(t, ours.Signed(key.For(true)))
	there, right := ours.Fingerprinted()
	require.True(t, there && right)
	at, ok := ours.Address(AttrXORMappedAddress)
	require.True(t, ok)
	require.Equal(t, peer, at)
}

func TestSHA256(t *testing.T) {
	key := NewKey(user, realm, password)
	for _, sha := range []bool{false, true} {
		var w Builder
		w.Begin(Refresh, Request, transaction)
		w.Add(AttrUsername, []byte(user))
		w.Sign(key.For(sha), SealSHA256)
		var m Message
		require.NoError(t, m.Parse(w.Bytes()))
		require.Equal(t, SealSHA256, m.Sealed())
		require.True(t, m.Signed(key.For(sha)))
		require.False(t, m.Signed(key.For(!sha)))
		m.Raw[len(m.Raw)-1] ^= 1
		require.False(t, m.Signed(key.For(sha)))
	}
}

func TestWhatFollowsTheSignatureIsNotRead(t *testing.T) {
	key := NewKey(user, realm, password)
	var w Builder
	w.Begin(Refresh, Request, transaction)
	w.Add(AttrUsername, []byte(user))
	w.Sign(key.For(false), SealSHA1)
	w.AddUint32(AttrLifetime, 0)
	w.Fingerprint()
	var m Message
	require.NoError(t, m.Parse(w.Bytes()))
	require.False(t, m.Has(AttrLifetime), "nobody signed it")
	require.True(t, m.Has(AttrFingerprint))
	require.True(t, m.Signed(key.For(false)))
}

func TestUnknownAttributes(t *testing.T) {
	var w Builder
	w.Begin(Binding, Request, transaction)
	w.Add(0x7F01, []byte("must be understood"))
	w.Add(0xFF01, []byte("may be left"))
	var m Message
	require.NoError(t, m.Parse(w.Bytes()))
	require.Equal(t, []Attr{0x7F01}, m.Unknown())
	w.Begin(Binding, Failure, transaction)
	w.AddError(420)
	w.AddUnknown([]Attr{0x7F01, 0x7F02, 0x7F03})
	theirs := &stun.Message{Raw: bytes.Clone(w.Bytes())}
	require.NoError(t, theirs.Decode())
	var e stun.ErrorCodeAttribute
	require.NoError(t, e.GetFrom(theirs))
	require.Equal(t, stun.CodeUnknownAttribute, e.Code)
}

func TestMalformed(t *testing.T) {
	var w Builder
	w.Begin(Allocate, Request, transaction)
	w.Add(AttrUsername, []byte(user))
	good := bytes.Clone(w.Bytes())
	var m Message
	require.NoError(t, m.Parse(good))
	for name, damage := range map[string]func(b []byte) []byte{
		"empty":                 func([]byte) []byte { return nil },
		"short":                 func(b []byte) []byte { return b[:19] },
		"cut":                   func(b []byte) []byte { return b[:len(b)-4] },
		"longer than it says":   func(b []byte) []byte { return append(b, 0, 0, 0, 0) },
		"no multiple of four":   func(b []byte) []byte { b[3]++; return append(b, 0) },
		"another cookie":        func(b []byte) []byte { b[4] = 0; return b },
		"an attribute too long": func(b []byte) []byte { b[23] = 200; return b },
		"too many attributes": func(b []byte) []byte {
			for range maxAttrs {
				b = append(b, 0, 6, 0, 0)
			}
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)-HeaderSize))
			return b
		},
	} {
		require.ErrorIs(t, m.Parse(damage(bytes.Clone(good))), ErrMalformed, name)
	}
}

func TestChannel(t *testing.T) {
	number, data, ok := Channel([]byte{0x40, 1, 0, 3, 'a', 'b', 'c', 0})
	require.True(t, ok)
	require.Equal(t, uint16(0x4001), number)
	require.Equal(t, "abc", string(data), "without the padding")
	for _, b := range [][]byte{nil, {0x40}, {0x40, 1, 0, 1}, {0, 1, 0, 0}, {0x80, 0, 0, 0}} {
		_, _, ok := Channel(b)
		require.False(t, ok, "%x", b)
	}
}

// Reading and writing addresses are each other's inverse, whatever the transaction.
func TestAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "id")
		ip, _ := netip.AddrFromSlice(rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 4, 4), rapid.SliceOfN(rapid.Byte(), 16, 16)).Draw(t, "ip"))
		ap := netip.AddrPortFrom(ip, rapid.Uint16().Draw(t, "port"))
		var w Builder
		w.Begin(Send, Indication, id)
		w.AddAddress(AttrXORPeerAddress, ap)
		var m Message
		require.NoError(t, m.Parse(w.Bytes()))
		got, ok := m.Peer()
		require.True(t, ok)
		require.Equal(t, ap, got)
	})
}

// Media costs no allocation: neither reading a message nor writing one.
func TestNoAllocation(t *testing.T) {
	var w, in Builder
	in.Begin(Send, Indication, transaction)
	in.AddAddress(AttrXORPeerAddress, netip.MustParseAddrPort("10.0.0.1:1"))
	in.Add(AttrData, make([]byte, 1200))
	b := in.Bytes()
	var m Message
	w.DataHead(transaction, netip.MustParseAddrPort("10.0.0.1:1"), 1200)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if m.Parse(b) != nil {
			t.Fatal("malformed")
		}
		at, _ := m.Peer()
		m.Get(AttrData)
		w.DataHead(transaction, at, 1200)
	}))
}

// Whatever bytes come: no panic, no reading beyond them, and agreement with another library on what is a message and what
// is signed.
func FuzzParse(f *testing.F) {
	key := NewKey(user, realm, password)
	var w Builder
	for _, seal := range []Seal{Unsealed, SealSHA1, SealSHA256} {
		w.Begin(Allocate, Request, transaction)
		w.AddUint32(AttrRequestedTransport, 17<<24)
		w.Add(AttrUsername, []byte(user))
		w.AddAddress(AttrXORPeerAddress, netip.MustParseAddrPort("10.0.0.1:1"))
		w.Sign(key.For(false), seal)
		f.Add(bytes.Clone(w.Bytes()))
		w.Fingerprint()
		f.Add(bytes.Clone(w.Bytes()))
	}
	f.Add([]byte{0x40, 0, 0, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		Channel(b)
		if len(b) >= ChannelSize {
			FrameSize(b)
		}
		var m Message
		if m.Parse(b) != nil {
			return
		}
		m.Peer()
		m.Chosen()
		m.Unknown()
		m.Peers(func(netip.AddrPort, bool) bool { return true })
		signed := m.Signed(key.For(false))
		_, right := m.Fingerprinted()
		theirs := &stun.Message{Raw: bytes.Clone(b)}
		if theirs.Decode() != nil {
			t.Fatal("the other library reads no message here")
		}
		if m.Sealed() == SealSHA1 && signed != (stun.NewLongTermIntegrity(user, realm, password).Check(theirs) == nil) && right {
			t.Fatal("the other library judges the signature otherwise")
		}
	})
}
