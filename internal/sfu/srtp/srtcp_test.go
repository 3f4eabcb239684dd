package srtp

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"testing"

	pion "github.com/pion/srtp/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// report is a receiver report with nothing to say: sender's SSRC 7.
var report = []byte{0x80, 201, 0, 1, 0, 0, 0, 7}

func pair(t require.TestingT, profile Profile) (*Sealer, *Opener, *pion.Context) {
	key, salt := make([]byte, profile.keyLen()), make([]byte, saltLen)
	rand.Read(key)  //nolint:errcheck // never fails
	rand.Read(salt) //nolint:errcheck // as above
	seal, err := NewSealer(profile, key, salt)
	require.NoError(t, err)
	open, err := NewOpener(profile, key, salt)
	require.NoError(t, err)
	other, err := pion.CreateContext(key, salt, pion.ProtectionProfile(profile))
	require.NoError(t, err)
	return seal, open, other
}

// Both ways pion is at the other end.
func TestRTCPWithPion(t *testing.T) {
	for _, profile := range []Profile{AES128GCM, AES256GCM} {
		rapid.Check(t, func(t *rapid.T) {
			seal, open, other := pair(t, profile)
			for index := range uint32(20) {
				b := append(slices.Clone(report), rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "more")...)
				binary.BigEndian.PutUint32(b[4:], rapid.SampledFrom([]uint32{7, 8}).Draw(t, "ssrc"))
				sealed, err := seal.SealRTCP(make([]byte, 0, 200), b, index+1, &Nonce{})
				require.NoError(t, err)
				require.Len(t, sealed, len(b)+OverheadRTCP)
				got, err := other.DecryptRTCP(nil, sealed, nil)
				require.NoError(t, err)
				require.Equal(t, b, got)
				theirs, err := other.EncryptRTCP(nil, b, nil)
				require.NoError(t, err)
				got, err = open.OpenRTCP(make([]byte, 0, 200), theirs)
				require.NoError(t, err)
				require.Equal(t, b, got)
				_, err = open.OpenRTCP(make([]byte, 0, 200), theirs)
				require.ErrorIs(t, err, ErrReplayed)
			}
		})
	}
}

// In any order, each packet is taken once, as long as it is not window behind the newest.
func TestReplaysAreToldInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seal, open, _ := pair(t, AES128GCM)
		newest, came := uint32(0), map[uint32]bool{}
		for range 100 {
			index := rapid.Uint32Range(1, 300).Draw(t, "index")
			sealed, err := seal.SealRTCP(make([]byte, 0, 100), report, index, &Nonce{})
			require.NoError(t, err)
			_, err = open.OpenRTCP(make([]byte, 0, 100), sealed)
			if came[index] || index+window <= newest {
				require.ErrorIs(t, err, ErrReplayed)
				continue
			}
			require.NoError(t, err)
			came[index], newest = true, max(newest, index)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	seal, open, _ := pair(t, AES128GCM)
	sealed, err := seal.SealRTCP(make([]byte, 0, 100), report, 1, &Nonce{})
	require.NoError(t, err)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		_, err := open.OpenRTCP(make([]byte, 0, 100), bad)
		require.ErrorIs(t, err, ErrNotSealed, "byte %d", i)
	}
	_, err = open.OpenRTCP(make([]byte, 0, 100), sealed[:len(sealed)-1])
	require.ErrorIs(t, err, errPacket)
	_, err = open.OpenRTCP(nil, sealed)
	require.ErrorIs(t, err, errPacket)
	_, err = seal.SealRTCP(nil, report, 1, &Nonce{})
	require.ErrorIs(t, err, errPacket)
	for ssrc := range uint32(maxSources + 10) {
		b := slices.Clone(report)
		binary.BigEndian.PutUint32(b[4:], ssrc)
		sealed, err := seal.SealRTCP(make([]byte, 0, 100), b, 1, &Nonce{})
		require.NoError(t, err)
		_, err = open.OpenRTCP(make([]byte, 0, 100), sealed)
		require.Equal(t, ssrc < maxSources, err == nil, "so many senders are not remembered")
	}
	require.Len(t, open.seen, maxSources)
}

func FuzzOpenRTCP(f *testing.F) {
	seal, open, _ := pair(f, AES128GCM)
	sealed, err := seal.SealRTCP(make([]byte, 0, 100), report, 1, &Nonce{})
	require.NoError(f, err)
	f.Add(sealed)
	f.Add([]byte{0x80, 201, 0, 1})
	f.Fuzz(func(_ *testing.T, b []byte) {
		open.OpenRTCP(make([]byte, 0, 1500), b) //nolint:errcheck // it must not panic
	})
}

func TestRTCPAllocatesNothing(t *testing.T) {
	seal, open, _ := pair(t, AES128GCM)
	index, n, sealed, plain := uint32(0), &Nonce{}, make([]byte, 0, 100), make([]byte, 0, 100)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		index++
		out, err := seal.SealRTCP(sealed, report, index, n)
		if err == nil && index > 1 {
			_, err = open.OpenRTCP(plain, out)
		}
		if err != nil {
			panic(err)
		}
	}))
}
