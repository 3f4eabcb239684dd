package srtp

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"net"
	"testing"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/selfsign"
	"github.com/pion/rtp"
	pion "github.com/pion/srtp/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// RFC 7714 section 16.1.1 is of session keys; the derivation is RFC 3711's appendix B.3, for AES-128 with a salt of 14 bytes.
func TestDerivationIsThatOfTheRFC(t *testing.T) {
	key, err := hex.DecodeString("E1F97A0D3E018BE0D64FA32C06DE4139")
	require.NoError(t, err)
	salt, err := hex.DecodeString("0EC675AD498AFEEBB6960B3AABE6")
	require.NoError(t, err)
	for label, want := range map[byte]string{0: "c61e7a93744f39ee10734afe3ff7a087", 2: "30cbbc08863d8c85d49db34a9ae1"} {
		got, err := derive(key, salt, label, len(want)/2)
		require.NoError(t, err)
		require.Equal(t, want, hex.EncodeToString(got))
	}
}

// roomy is a copy of a packet with room for protection.
func roomy(b []byte) []byte { return append(make([]byte, 0, len(b)+Overhead), b...) }

// What is sealed here, pion opens: over wraps of the sequence number, with packets left out, and with some sent again.
func TestPionOpensWhatIsSealed(t *testing.T) {
	for _, profile := range []Profile{AES128GCM, AES256GCM} {
		rapid.Check(t, func(t *rapid.T) {
			key, salt := make([]byte, profile.keyLen()), make([]byte, saltLen)
			rand.Read(key)  //nolint:errcheck // never fails
			rand.Read(salt) //nolint:errcheck // as above
			seal, err := NewSealer(profile, key, salt)
			require.NoError(t, err)
			open, err := pion.CreateContext(key, salt, pion.ProtectionProfile(profile), pion.SRTPNoReplayProtection())
			require.NoError(t, err)
			streams := map[uint32]*Stream{1: {}, 2: {}}
			next := map[uint32]uint16{1: rapid.Uint16().Draw(t, "first"), 2: 65_500}
			for range rapid.IntRange(1, 300).Draw(t, "packets") {
				ssrc := rapid.SampledFrom([]uint32{1, 2}).Draw(t, "ssrc")
				seq := next[ssrc] + rapid.Uint16Range(0, 2000).Draw(t, "gap")
				next[ssrc] = seq + 1
				if rapid.IntRange(0, 9).Draw(t, "again") == 0 && streams[ssrc].begun {
					seq = streams[ssrc].last
				}
				p := rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, SSRC: ssrc, PayloadType: 96}, Payload: rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "payload")}
				if rapid.Bool().Draw(t, "extended") {
					require.NoError(t, p.SetExtension(3, []byte{1, 2}))
				}
				plain, err := p.Marshal()
				require.NoError(t, err)
				sealed, err := seal.Seal(roomy(plain), streams[ssrc])
				require.NoError(t, err)
				require.Len(t, sealed, len(plain)+Overhead)
				opened, err := open.DecryptRTP(nil, sealed, nil)
				require.NoError(t, err)
				require.Equal(t, plain, opened)
			}
		})
	}
}

// What pion protects is opened, over wraps of the numbers, with packets left out and overtaken; nothing is opened twice, and nothing that was changed.
func TestWhatPionSealsIsOpened(t *testing.T) {
	for _, profile := range []Profile{AES128GCM, AES256GCM} {
		rapid.Check(t, func(t *rapid.T) {
			_, open, other := pair(t, profile)
			if rapid.Bool().Draw(t, "cryptex") {
				require.NoError(t, other.UpdateOptions(pion.Cryptex(pion.CryptexModeEnabled)))
			}
			var of Source
			seq, held := rapid.Uint16Range(0, 65_535).Draw(t, "first"), [][2][]byte{}
			take := func(sealed, plain []byte) {
				bad := bytes.Clone(sealed)
				bad[rapid.IntRange(0, len(bad)-1).Draw(t, "byte")] ^= 0x40
				before := of
				_, err := open.Open(make([]byte, 0, 200), bad, &of)
				require.Error(t, err)
				require.Equal(t, before, of, "what is not the peer's changes nothing")
				got, err := open.Open(make([]byte, 0, len(plain)), sealed, &of)
				require.NoError(t, err)
				require.Equal(t, plain, got)
				_, err = open.Open(make([]byte, 0, 200), sealed, &of)
				require.ErrorIs(t, err, ErrReplayed)
			}
			for n := range rapid.IntRange(1, 100).Draw(t, "packets") {
				p := rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, SSRC: 1, PayloadType: 96}, Payload: rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "payload")}
				switch rapid.IntRange(0, 2).Draw(t, "extended") {
				case 1:
					require.NoError(t, p.SetExtension(3, []byte{1, 2}))
				case 2:
					require.NoError(t, p.SetExtension(30, []byte{1, 2}))
				}
				plain, err := p.Marshal()
				require.NoError(t, err)
				sealed, err := other.EncryptRTP(nil, plain, nil)
				require.NoError(t, err)
				gap := rapid.Uint16Range(1, 500).Draw(t, "gap")
				if n > 0 && len(held) < 2 && rapid.IntRange(0, 4).Draw(t, "late") == 0 {
					held, gap = append(held, [2][]byte{sealed, plain}), 1
				} else {
					take(sealed, plain)
					if gap > 1 {
						held = nil // they would be too late
					}
				}
				seq += gap
				if len(held) > 0 && gap == 1 && rapid.Bool().Draw(t, "now") {
					take(held[0][0], held[0][1])
					held = held[1:]
				}
			}
		})
	}
}

func TestOpenAllocatesNothing(t *testing.T) {
	seal, open, _ := pair(t, AES128GCM)
	p, sealed, out, as, of := append([]byte{0x80}, make([]byte, 1000)...), make([]byte, 0, 1100), make([]byte, 0, 1100), &Stream{}, &Source{}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p[3]++
		b, _ := seal.Seal(append(sealed, p...), as)
		if _, err := open.Open(out, b, of); err != nil {
			panic(err)
		}
	}))
}

func FuzzOpen(f *testing.F) {
	seal, _, _ := pair(f, AES128GCM)
	b, err := seal.Seal(roomy(append([]byte{0x90}, make([]byte, 30)...)), &Stream{})
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, open, _ := pair(t, AES128GCM)
		_, err := open.Open(make([]byte, 0, 100), b, &Source{})
		require.Error(t, err)
	})
}

func TestIndexOfWhatLiesBehind(t *testing.T) {
	s := &Stream{}
	require.EqualValues(t, 0, s.index(65_534))
	require.EqualValues(t, 1, s.index(1))
	require.EqualValues(t, 0, s.index(65_535))
	require.EqualValues(t, 1, s.index(0))
	require.EqualValues(t, 1, s.index(1))
	require.EqualValues(t, 1, s.index(2))
}

func TestSealRefuses(t *testing.T) {
	s, err := NewSealer(AES128GCM, make([]byte, 16), make([]byte, 12))
	require.NoError(t, err)
	for _, b := range [][]byte{nil, make([]byte, 11), make([]byte, 12), {0x9f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0, 1}} {
		_, err := s.Seal(roomy(b), &Stream{})
		require.ErrorIs(t, err, errPacket)
	}
	p := append([]byte{0x80}, make([]byte, 20)...)
	_, err = s.Seal(append(make([]byte, 0, len(p)+Overhead-1), p...), &Stream{})
	require.ErrorIs(t, err, errPacket)
	_, err = NewSealer(1, make([]byte, 16), make([]byte, 12))
	require.ErrorIs(t, err, errProfile)
	_, err = NewSealer(AES128GCM, make([]byte, 15), make([]byte, 12))
	require.ErrorIs(t, err, errRandom)
}

func TestSealAllocatesNothing(t *testing.T) {
	s, err := NewSealer(AES128GCM, make([]byte, 16), make([]byte, 12))
	require.NoError(t, err)
	p, of := roomy(append([]byte{0x80}, make([]byte, 1000)...)), &Stream{}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p[3]++
		s.Seal(p, of) //nolint:errcheck // it fits
	}))
}

// shake lets a DTLS client and a server of pion's meet; the server is heard by h.
func shake(t *testing.T, h *Handshake, suite dtls.CipherSuiteID, profiles ...dtls.SRTPProtectionProfile) (client, server *dtls.Conn) {
	t.Helper()
	own, err := selfsign.GenerateSelfSigned()
	require.NoError(t, err)
	a, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	b, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	server, err = dtls.ServerWithOptions(a, b.LocalAddr(), dtls.WithCertificates(own), dtls.WithSRTPProtectionProfiles(profiles...), dtls.WithCipherSuites(suite),
		dtls.WithKeyLogWriter(h), dtls.WithServerHelloMessageHook(h.ServerHello))
	require.NoError(t, err)
	client, err = dtls.ClientWithOptions(b, a.LocalAddr(), dtls.WithCertificates(own), dtls.WithSRTPProtectionProfiles(profiles...), dtls.WithCipherSuites(suite),
		dtls.WithInsecureSkipVerify(true))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	require.NoError(t, client.HandshakeContext(t.Context()))
	require.NoError(t, <-done)
	t.Cleanup(func() {
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	})
	return client, server
}

// The keys that are heard are those that pion's client derives for itself.
func TestHandshakeIsHeard(t *testing.T) {
	for _, suite := range []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} {
		for _, profile := range []dtls.SRTPProtectionProfile{dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AEAD_AES_256_GCM} {
			h := &Handshake{}
			_, _, err := h.Keys()
			require.ErrorIs(t, err, errRandom, "nothing has been heard")
			client, _ := shake(t, h, suite, profile)
			seal, reports, err := h.Keys()
			require.NoError(t, err)
			state, ok := client.ConnectionState()
			require.True(t, ok)
			c := pion.Config{Profile: pion.ProtectionProfile(profile)}
			require.NoError(t, c.ExtractSessionKeysFromDTLS(&state, true))
			open, err := pion.CreateContext(c.Keys.RemoteMasterKey, c.Keys.RemoteMasterSalt, c.Profile)
			require.NoError(t, err)
			plain := append([]byte{0x80, 96, 0, 1}, make([]byte, 30)...)
			sealed, err := seal.Seal(roomy(plain), &Stream{})
			require.NoError(t, err)
			opened, err := open.DecryptRTP(nil, sealed, nil)
			require.NoError(t, err)
			require.Equal(t, plain, opened)
			theirs, err := pion.CreateContext(c.Keys.LocalMasterKey, c.Keys.LocalMasterSalt, c.Profile)
			require.NoError(t, err)
			protected, err := theirs.EncryptRTCP(nil, report, nil)
			require.NoError(t, err)
			got, err := reports.OpenRTCP(make([]byte, 0, 100), protected)
			require.NoError(t, err)
			require.Equal(t, report, got)
			_, _, err = h.Keys()
			require.ErrorIs(t, err, errRandom, "secrets are given out once")
		}
	}
}

func TestHandshakeWithAnotherProtection(t *testing.T) {
	h := &Handshake{}
	shake(t, h, dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	_, _, err := h.Keys()
	require.ErrorIs(t, err, errProfile)
}

func TestKeyLogOfSomethingElse(t *testing.T) {
	h := &Handshake{}
	for _, line := range []string{"", "CLIENT_RANDOM 00", "CLIENT_RANDOM xx 00\n", "CLIENT_RANDOM 00 xx\n", "CLIENT_TRAFFIC_SECRET_0 00 00\n"} {
		n, err := h.Write([]byte(line))
		require.NoError(t, err)
		require.Equal(t, len(line), n)
	}
	_, _, err := h.Keys()
	require.ErrorIs(t, err, errRandom)
}

func BenchmarkSeal(b *testing.B) {
	s, err := NewSealer(AES128GCM, make([]byte, 16), make([]byte, 12))
	require.NoError(b, err)
	p, of := roomy(append([]byte{0x80}, make([]byte, 1050)...)), &Stream{}
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		p[3]++
		s.Seal(p, of) //nolint:errcheck // it fits
	}
}
