package sfu

import (
	"cmp"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/sfu/rewrite"
)

// seen is a packet as a subscriber gets it.
type seen struct {
	rtp.Header
	at      int // the sequence number, made to count on
	payload []byte
	deps    []byte
	shot    *shot
	place   int
}

// bench is told what a decoder would not bear.
type bench interface{ Fatalf(string, ...any) }

// decoder collects what a subscriber is sent, and judges it in the end.
type decoder struct {
	t       bench
	codec   rewrite.Codec
	film    []*shot
	got     []seen
	bare    bool // its payloads have no numbers of their own
	woven   bool // encodings send their pictures at the same time, so a switch may cut one off: a keyframe follows, and nothing is missed
	clean   bool // nothing was lost, and nothing came out of order
	astray  int  // packets that were lost or late on the way up
	numbers map[uint16]bool
}

const dependencyID = 9

func (d *decoder) Write(packet []byte) (int, error) {
	var h rtp.Header
	at, err := h.Unmarshal(packet)
	if err != nil {
		d.t.Fatalf("what was sent is no RTP: %v", err)
	}
	b := packet[at:]
	n := len(b)
	s := seen{Header: h.Clone(), payload: slices.Clone(b), deps: slices.Clone(h.GetExtension(dependencyID)),
		shot: d.film[binary.BigEndian.Uint32(b[n-5:])], place: int(b[n-1])}
	s.at = int(h.SequenceNumber)
	if len(d.got) > 0 {
		before := d.got[len(d.got)-1]
		s.at = before.at + int(int16(h.SequenceNumber-before.SequenceNumber))
	}
	s.shot.sent++
	d.got = append(d.got, s)
	return n, nil
}

// stage is a track of one or more encodings, and a subscriber.
type stage struct {
	t       *rapid.T
	u       *up
	layers  []*layer
	cameras []*camera
	down    *down
	decoder *decoder
	now     time.Time
	wanted  []bool // a keyframe was asked for
	off     []bool // the encoding is switched off
	slot    int
	begun   int // the keyframe that the subscriber's stream began with, or went on after a pause
	waiting []underway
}

const never = 1 << 30

// underway is a packet on the way to the SFU.
type underway struct {
	due   int
	enc   int
	bytes []byte
}

func newStage(t *rapid.T, codec rewrite.Codec, encodings int) *stage {
	s := bareStage(t, codec, encodings, rapid.Bool().Draw(t, "clean"))
	s.t = t
	s.u.kinds[7] = extDependency + 1
	for n, l := range s.layers {
		if codec != rewrite.AV1 {
			l.deps = nil // cameras write none
		}
		s.cameras = append(s.cameras, newCamera(t, n, codec, &s.decoder.film, encodings == 1))
	}
	return s
}

// bareStage is one without cameras. Unless it is clean, somebody draws what is lost.
func bareStage(t bench, codec rewrite.Codec, encodings int, clean bool) *stage {
	mime := map[rewrite.Codec]string{rewrite.VP8: webrtc.MimeTypeVP8, rewrite.VP9: webrtc.MimeTypeVP9, rewrite.AV1: webrtc.MimeTypeAV1, rewrite.H264: webrtc.MimeTypeH264}[codec]
	u := &up{kind: webrtc.RTPCodecTypeVideo, codec: webrtc.RTPCodecCapability{MimeType: mime, ClockRate: 90000}, read: codec, metrics: newMetrics()}
	u.subs.Store(&[]*down{})
	s := &stage{u: u, now: time.Unix(1000, 0), wanted: make([]bool, encodings), off: make([]bool, encodings)}
	s.decoder = &decoder{t: t, codec: codec, clean: clean, numbers: map[uint16]bool{}}
	for n := range encodings {
		s.layers = append(s.layers, &layer{up: u, order: n, reports: &reports{}, deps: dependenciesOf(codec)})
		s.wanted[n] = true
	}
	u.layers.Store(&s.layers)
	s.down = newDown(u, newEgress(u.metrics, func() {}))
	s.down.bound = &binding{writer: s.decoder, pt: 96}
	s.down.bound.exts[extDependency] = dependencyID
	return s
}

// tick is a picture's time: something may happen, each encoding sends a picture, and what is due arrives.
func (s *stage) tick() {
	switch rapid.IntRange(0, 11).Draw(s.t, "event") {
	case 0, 1:
		s.down.target(rapid.IntRange(0, 2).Draw(s.t, "spatial"), rapid.IntRange(0, 2).Draw(s.t, "temporal"))
	case 2:
		s.down.pause(rapid.Bool().Draw(s.t, "pause"))
	case 3:
		if n := rapid.IntRange(0, len(s.off)-1).Draw(s.t, "encoding"); n > 0 {
			s.off[n] = !s.off[n]
			s.wanted[n] = true // it begins anew
		}
	case 4:
		s.now = s.now.Add(2 * time.Second) // and whoever is off counts as off
	}
	for n, c := range s.cameras {
		if s.off[n] {
			continue
		}
		key := s.wanted[n] && (c.beat == 0 || rapid.IntRange(0, 2).Draw(s.t, "key") == 0)
		if key {
			s.wanted[n] = false
		}
		for k, b := range c.picture(key) {
			s.dispatch(n, b, s.decoder.codec == rewrite.H264 && key && k == 0)
		}
	}
	s.arrive()
	s.now = s.now.Add(33 * time.Millisecond)
}

func (s *stage) dispatch(enc int, b []byte, dear bool) {
	s.slot++
	due := s.slot
	if !s.decoder.clean && !dear { // whether parameters were lost or are told elsewhere cannot be told apart for ever
		switch rapid.IntRange(0, 40).Draw(s.t, "way") {
		case 0: // lost, and that is all
			s.decoder.astray++
			return
		case 1: // lost, and sent again
			s.decoder.astray++
			due += rapid.IntRange(10, 80).Draw(s.t, "round trip")
		case 2:
			s.decoder.astray++
			due += rapid.IntRange(1, 6).Draw(s.t, "behind")
		}
	}
	s.waiting = append(s.waiting, underway{due, enc, b})
}

// arrive has what is due arrive, some of it together (burst).
func (s *stage) arrive() {
	slices.SortStableFunc(s.waiting, func(a, b underway) int { return cmp.Compare(a.due, b.due) })
	var together []*packet
	for len(s.waiting) > 0 && s.waiting[0].due <= s.slot {
		w := s.waiting[0]
		s.waiting = s.waiting[1:]
		p := &packet{up: s.u, layer: s.layers[w.enc]}
		if !p.parse(w.bytes, &s.u.kinds) {
			s.t.Fatalf("%x cannot be parsed", w.bytes)
		}
		p.at = s.now
		if p.restructures() || len(together) > 0 && together[0].layer != p.layer || len(together) == burstMost {
			s.pass(together)
			together = nil
		}
		if !p.look() {
			s.t.Fatalf("%x cannot be read", w.bytes)
		}
		together = append(together, p)
	}
	s.pass(together)
}

func (s *stage) pass(together []*packet) {
	for _, p := range together {
		f := s.decoder.film[binary.BigEndian.Uint32(p.payload[len(p.payload)-5:])]
		from, broken := s.down.from, s.down.broken
		if ask := s.down.pass(p); ask != nil {
			s.wanted[ask.order] = true
		}
		if s.down.from != from || s.down.broken != broken {
			s.begun = never
		}
		if s.begun == never && p.info.Key && !p.info.Late { // until then its decoder shows nothing
			s.begun = f.id
		}
		if s.down.from == p.layer && !s.down.broken && f.id >= s.begun {
			f.offered++
		}
	}
}

// Whatever is switched, paused, limited, lost, late or out of order on the way up: a subscriber gets what a decoder accepts.
func TestWhateverHappensADecoderAcceptsIt(t *testing.T) {
	for name, c := range map[string]struct {
		codec rewrite.Codec
		most  int
	}{"VP8": {rewrite.VP8, 3}, "VP9": {rewrite.VP9, 1}, "AV1": {rewrite.AV1, 3}, "H264": {rewrite.H264, 3}} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := newStage(t, c.codec, rapid.IntRange(1, c.most).Draw(t, "encodings"))
				for range rapid.IntRange(1, 80).Draw(t, "pictures") {
					s.tick()
				}
				s.decoder.judge()
			})
		})
	}
}

func (d *decoder) judge() {
	for _, s := range d.got {
		if d.numbers[s.SequenceNumber] {
			d.t.Fatalf("number %d twice", s.SequenceNumber)
		}
		d.numbers[s.SequenceNumber] = true
	}
	slices.SortFunc(d.got, func(a, b seen) int { return cmp.Compare(a.at, b.at) })
	if n := len(d.got); n > 0 {
		if gaps := d.got[n-1].at - d.got[0].at + 1 - n; gaps > d.astray {
			d.t.Fatalf("%d numbers are missing, and %d packets went astray", gaps, d.astray)
		}
	}
	d.judgeReferences()
	var reader rewrite.Dependencies
	for n := range d.got {
		if n > 0 {
			d.judgeOrder(&d.got[n-1], &d.got[n])
		}
		d.judgeDependencies(&reader, n)
	}
	if n := len(d.got); d.clean && n > 0 && !d.got[n-1].Marker {
		d.t.Fatalf("the last picture does not end")
	}
}

// judgeReferences finds frames that cannot be decoded because of what was left out on purpose.
func (d *decoder) judgeReferences() {
	for _, f := range d.film {
		if f.sent == 0 {
			continue
		}
		if d.clean && f.offered > 0 && f.sent != f.offered {
			d.t.Fatalf("frame %d went on in part: %+v", f.id, *f)
		}
		for _, r := range f.refs {
			if ref := d.film[r]; ref.sent == 0 && ref.offered > 0 {
				d.t.Fatalf("frame %+v is predicted from %+v, which was left out", *f, *ref)
			}
		}
	}
}

// judgeOrder looks at two packets in a row.
func (d *decoder) judgeOrder(a, b *seen) {
	fresh := a.shot.enc != b.shot.enc
	if fresh && !(b.shot.key && b.shot.spatial == 0 && b.place == 0) {
		d.t.Fatalf("encoding %d begins with packet %d of %+v", b.shot.enc, b.place, *b.shot)
	}
	switch passed := int32(b.Timestamp - a.Timestamp); {
	case passed < 0, passed == 0 && fresh:
		d.t.Fatalf("the clock goes from %d to %d", a.Timestamp, b.Timestamp)
	case passed == 0 && a.Marker:
		d.t.Fatalf("the picture at %d goes on behind its end: %+v, then %+v", a.Timestamp, *a.shot, *b.shot)
	case passed > 0 && d.clean && !a.Marker && !(d.woven && fresh):
		d.t.Fatalf("the picture at %d does not end: %+v, then %+v", a.Timestamp, *a.shot, *b.shot)
	}
	in := b.shot.number - a.shot.number
	switch {
	case d.bare:
	case d.codec == rewrite.VP8:
		d.judgeVP8(a, b)
	case d.codec == rewrite.VP9:
		ahead := (pictureID(b) - pictureID(a)) & 0x7fff
		if begins := b.shot.key && b.shot.spatial == 0 && b.place == 0; ahead != in&0x7fff && !begins {
			d.t.Fatalf("picture %d is %d ahead, and was %d", b.shot.number, ahead, in)
		} else if begins && (ahead == 0 || ahead > 0x3fff) {
			d.t.Fatalf("picture ids go back")
		}
	case d.codec == rewrite.AV1:
		ahead := int16(frameNumber(b) - frameNumber(a))
		if begins := b.shot.key && b.shot.spatial == 0 && b.place == 0; uint16(ahead) != in && !begins {
			d.t.Fatalf("frame %d is %d ahead, and was %d", b.shot.number, ahead, in)
		} else if a.shot != b.shot && ahead <= 0 {
			d.t.Fatalf("frame numbers go back")
		}
	}
}

// pictureID is VP9's.
func pictureID(s *seen) uint16 {
	return binary.BigEndian.Uint16(s.payload[1:]) & 0x7fff
}

func frameNumber(s *seen) uint16 { return binary.BigEndian.Uint16(s.deps[1:]) }

func (d *decoder) judgeVP8(a, b *seen) {
	pid := func(s *seen) uint16 { return binary.BigEndian.Uint16(s.payload[2:]) & 0x7fff }
	ahead := (pid(b) - pid(a)) & 0x7fff
	tl0 := b.payload[4] - a.payload[4]
	switch {
	case a.shot == b.shot && (ahead != 0 || tl0 != 0):
		d.t.Fatalf("a picture goes on with other numbers")
	case a.shot != b.shot && (ahead == 0 || ahead > 0x3fff):
		d.t.Fatalf("picture ids go back")
	case a.shot == b.shot || !d.clean:
	case ahead != 1:
		d.t.Fatalf("picture %d after %d", pid(b), pid(a))
	case b.shot.temporal == 0 && tl0 != 1, b.shot.temporal > 0 && tl0 != 0:
		d.t.Fatalf("TL0PICIDX goes on by %d to layer %d", tl0, b.shot.temporal)
	}
}

// judgeDependencies reads AV1's descriptors as a subscriber does: each is known, and what is said to be active can be decoded.
func (d *decoder) judgeDependencies(reader *rewrite.Dependencies, n int) {
	if d.codec != rewrite.AV1 {
		return
	}
	var told rewrite.Descriptor
	s := &d.got[n]
	if !reader.Read(s.deps, &told) {
		d.t.Fatalf("a descriptor that cannot be read: %x", s.deps)
	}
	if !d.clean {
		return
	}
	if !told.Known {
		d.t.Fatalf("the structure is missing")
	}
	active := told.Active()
	if s.shot.targets == "" {
		return // of a capture, whose indications nobody has told
	}
	present := func(f *shot) (set uint32) {
		for t, c := range f.targets {
			if c != '-' {
				set |= 1 << t
			}
		}
		return set
	}
	if present(s.shot)&active == 0 {
		d.t.Fatalf("frame %+v is of no active target: %b", *s.shot, active)
	}
	if n == 0 || s.shot.key || s.shot == d.got[n-1].shot || d.got[n-1].shot.enc != s.shot.enc {
		return
	}
	for t, c := range s.shot.targets {
		if c == 'S' { // whatever of it was left out before, from here on it can be decoded
			active &^= 1 << t
		}
	}
	for _, f := range d.film[d.got[n-1].shot.id+1 : s.shot.id] {
		if f.enc == s.shot.enc && f.sent == 0 && present(f)&active != 0 {
			d.t.Fatalf("frame %+v was left out, and of %b are said to be active", *f, active)
		}
	}
}

// A packet that comes late begins nothing: what lies between it and what follows was left out on purpose, and would seem lost.
func TestALatePacketBeginsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(t, rewrite.VP9, 1)
		first := s.cameras[0].picture(true)
		second := s.cameras[0].picture(false)
		pass := func(raw []byte) (late bool) {
			p := &packet{up: s.u, layer: s.layers[0], at: s.now}
			require.True(t, p.parse(raw, &s.u.kinds))
			require.True(t, p.look())
			s.down.pass(p)
			return p.info.Late
		}
		pass(first[len(first)-1])
		s.down.target(rapid.IntRange(0, 2).Draw(t, "spatial"), 0)
		pass(second[0])
		begun := len(s.decoder.got) > 0
		if pass(first[0]) && !begun {
			require.Empty(t, s.decoder.got)
		}
	})
}
