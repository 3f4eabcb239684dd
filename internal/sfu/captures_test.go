package sfu

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/sfu/rewrite"
)

// captured is a packet of a capture, and the frame that it belongs to.
type captured struct {
	at    time.Duration
	enc   int
	raw   []byte
	shot  *shot
	again int // where it came before: browsers probe with what they have sent already; -1: nowhere
}

// footage is a capture of testdata/captures, with the frames in it.
type footage struct {
	codec     rewrite.Codec
	encodings int
	temporal  bool // it has temporal layers
	kinds     extensionKinds
	packets   []captured
	film      []*shot
	bare      bool
}

// camera's frames are told apart by the descriptor's number where there is one, else by the timestamp.
type frameKey struct {
	enc    int
	ts     uint32
	number int
}

func readCapture(t testing.TB, path string) *footage {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	line, body, ok := bytes.Cut(raw, []byte{'\n'})
	require.True(t, ok)
	var head struct {
		Codec      string
		Modes      []string `json:"scalability_modes"`
		Extensions map[string]uint8
	}
	require.NoError(t, json.Unmarshal(line, &head))
	f := &footage{codec: rewrite.CodecOf(head.Codec), encodings: len(head.Modes), temporal: !strings.Contains(path, "firefox")}
	var list []webrtc.RTPHeaderExtensionParameter
	for uri, id := range head.Extensions {
		list = append(list, webrtc.RTPHeaderExtensionParameter{URI: uri, ID: int(id)})
	}
	f.kinds = kindsOf(webrtc.RTPCodecTypeVideo, list)
	for len(body) > 0 {
		c := captured{again: -1, at: time.Duration(binary.BigEndian.Uint32(body)) * time.Millisecond, enc: int(body[4])}
		n := int(binary.BigEndian.Uint16(body[7:]))
		c.raw, body = body[9:9+n:9+n], body[9+n:]
		f.packets = append(f.packets, c)
	}
	f.develop(t)
	return f
}

// develop finds the frames, and what each is predicted from: by the rules of the scalability modes L1T3 and L3T3_KEY, not by what their
// descriptors say of it.
func (f *footage) develop(t testing.TB) {
	shots, seen := map[frameKey]*shot{}, map[[2]int]int{}
	readers := make([]rewrite.Dependencies, f.encodings)
	last := make([][3][3]*shot, f.encodings)
	for i := range f.packets {
		c := &f.packets[i]
		var p packet
		require.True(t, (&p).parse(c.raw, &f.kinds))
		at := [2]int{c.enc, int(p.hdr.SequenceNumber)}
		if of, ok := seen[at]; ok {
			c.shot, c.again = f.packets[of].shot, of
			continue
		}
		seen[at] = i
		if len(p.payload) == 0 {
			continue // padding
		}
		info, ok := rewrite.Read(f.codec, p.payload)
		require.True(t, ok)
		key := frameKey{c.enc, p.hdr.Timestamp, -1}
		var d rewrite.Descriptor
		if b := p.ext[extDependency]; b != nil {
			require.True(t, readers[c.enc].Read(b, &d))
			require.True(t, d.Known)
			key.number = int(d.Frame)
			info.Spatial, info.Temporal = d.Layers()
			info.Key = info.Key && f.codec != rewrite.AV1 || d.Key
		}
		s := shots[key]
		if s == nil {
			s = &shot{id: len(f.film), enc: c.enc, spatial: int(info.Spatial), temporal: int(info.Temporal), key: info.Key, number: info.PID, tl0: info.TL0}
			if f.codec == rewrite.AV1 {
				s.number = d.Frame
			}
			f.refer(s, &last[c.enc], p.hdr.Timestamp)
			shots[key] = s
			f.film = append(f.film, s)
			f.bare = f.bare || f.codec == rewrite.VP8 && !info.HasPID()
		}
		c.shot = s
		c.raw = append(binary.BigEndian.AppendUint32(c.raw, uint32(s.id)), byte(s.packets))
		s.packets++
	}
}

// refer says what a frame is predicted from: of its own spatial layer the last frame of the base, and what has come since of the layers between;
// in a keyframe's picture the spatial layer below.
func (f *footage) refer(s *shot, last *[3][3]*shot, ts uint32) {
	of := &last[s.spatial]
	if below := last[max(0, s.spatial-1)][0]; s.spatial > 0 && below != nil && below.key && below.ts == ts {
		s.key, s.refs = true, []int{below.id}
	} else if !s.key {
		for n := range s.temporal + 1 {
			if ref := of[n]; ref != nil && (n == 0 || n < s.temporal && ref.id > of[0].id) {
				s.refs = append(s.refs, ref.id)
			}
		}
	}
	s.ts = ts
	of[s.temporal] = s
}

// fresh gives the capture anew, to be decoded by somebody who has not seen it.
func (f *footage) fresh() (film []*shot) {
	for _, s := range f.film {
		c := *s
		c.offered, c.sent = 0, 0
		film = append(film, &c)
	}
	return film
}

func captures(t *testing.T) map[string]*footage {
	t.Helper()
	paths, err := filepath.Glob("testdata/captures/*.rtp")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	out := map[string]*footage{}
	for _, path := range paths {
		out[strings.TrimSuffix(filepath.Base(path), ".rtp")] = readCapture(t, path)
	}
	return out
}

// replay sends a stretch of a capture to a subscriber, with a hand at its limits between pictures.
func (f *footage) replay(s *stage, from, to int, between func()) {
	s.u.kinds, s.decoder.film, s.decoder.bare, s.decoder.woven = f.kinds, f.fresh(), f.bare, true
	begun, ended, open := make([]bool, f.encodings), make([]int, f.encodings), make([]bool, f.encodings)
	for i := from; i < to; i++ { // whole pictures only, or the last would not end
		if c := &f.packets[i]; c.shot != nil && c.again < 0 && c.raw[1]&0x80 != 0 {
			ended[c.enc] = i
		}
	}
	start := s.now
	for i := from; i < to; i++ {
		c := &f.packets[i]
		if c.shot == nil && c.again < 0 {
			s.decoder.astray++ // padding, with a number of its own
		}
		if c.shot == nil || c.again >= 0 && (s.decoder.clean || c.again < from) || i > ended[c.enc] {
			continue
		}
		if !begun[c.enc] && (c.again >= 0 || !c.shot.key || c.raw[len(c.raw)-1] != 0 || c.shot.spatial > 0) {
			continue // a stream begins with a keyframe
		}
		begun[c.enc] = true
		if now := start.Add(c.at - f.packets[from].at); now.After(s.now) {
			s.now = now
		}
		if !slices.Contains(open, true) && i%2 == 0 {
			between()
		}
		raw := c.raw
		if c.again >= 0 {
			raw = f.packets[c.again].raw
		} else {
			open[c.enc] = raw[1]&0x80 == 0
		}
		s.dispatch(c.enc, raw, f.codec == rewrite.H264 && c.shot.key)
		s.arrive()
	}
	s.slot += 1000 // whatever is on the way still
	s.arrive()
}

// What real browsers send is rewritten like what our cameras send: whatever is switched, paused, lost or late, a decoder accepts it.
func TestCapturesADecoderAccepts(t *testing.T) {
	for name, f := range captures(t) {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := bareStage(t, f.codec, f.encodings, rapid.Bool().Draw(t, "clean"))
				s.t = t
				from := rapid.IntRange(0, len(f.packets)-200).Draw(t, "from")
				f.replay(s, from, min(len(f.packets), from+250), func() {
					switch rapid.IntRange(0, 15).Draw(t, "event") {
					case 0, 1:
						s.down.target(rapid.IntRange(0, 2).Draw(t, "spatial"), rapid.IntRange(0, 2).Draw(t, "temporal"))
					case 2:
						s.down.pause(rapid.Bool().Draw(t, "pause"))
					}
				})
				s.decoder.judge()
			})
		})
	}
}

// Of a browser's picture with temporal layers a subscriber may have fewer frames: all of the layers up to the limit, and none of those above.
func TestCapturesAreThinned(t *testing.T) {
	for name, f := range captures(t) {
		if !f.temporal {
			continue
		}
		t.Run(name, func(t *testing.T) {
			for limit := range 9 {
				s := bareStage(t, f.codec, f.encodings, true)
				s.down.target(limit/3, limit%3)
				f.replay(s, 0, len(f.packets), func() {})
				s.decoder.judge()
				for _, g := range s.decoder.got {
					require.Equal(t, f.codec.Describes(), len(g.deps) > 0, "who is sent descriptors")
				}
				var of [3]int
				for _, shot := range s.decoder.film {
					if shot.sent > 0 {
						of[shot.temporal]++
					}
				}
				for n, sent := range of {
					if (n > limit%3) != (sent == 0) {
						t.Fatalf("with rates up to %d, %v frames of each were sent", limit%3, of)
					}
				}
			}
		})
	}
}

// The captures are what they are said to be.
func TestCapturesHaveLayers(t *testing.T) {
	for name, f := range captures(t) {
		keys, spatial, temporal := make([]int, f.encodings), 0, 0
		for _, s := range f.film {
			spatial, temporal = max(spatial, s.spatial), max(temporal, s.temporal)
			if s.key && s.spatial == 0 {
				keys[s.enc]++
			}
		}
		for n, k := range keys {
			require.GreaterOrEqual(t, k, 2, "%s: keyframes of encoding %d", name, n)
		}
		require.Equal(t, f.temporal, temporal == 2, name)
		require.Equal(t, strings.HasSuffix(name, "-svc"), spatial == 2, name)
		var h rtp.Header
		_, err := h.Unmarshal(f.packets[0].raw)
		require.NoError(t, err)
	}
}
