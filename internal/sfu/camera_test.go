package sfu

import (
	"encoding/binary"

	"github.com/pion/rtp"
	"pgregory.net/rapid"

	"orama.network/orama/internal/sfu/rewrite"
	"orama.network/orama/internal/sfu/rewrite/rewritetest"
)

// shot is a frame as its camera made it: what a decoder needs to show it, told without the descriptors that the SFU goes by.
type shot struct {
	id, enc           int
	spatial, temporal int
	key               bool // of a keyframe's picture
	refs              []int
	number            uint16 // picture id, or frame number
	tl0               uint8
	targets           string // AV1: its indications
	begins            bool   // the first of its picture
	ts                uint32 // of a capture
	packets           int
	offered, sent     int // packets that came while the encoding was watched, and that went on
}

// camera is one encoding. Each packet ends with its shot's id and its place in the shot.
type camera struct {
	enc   int
	codec rewrite.Codec
	film  *[]*shot
	draw  *rapid.T

	seq, number uint16
	ts          uint32
	tl0         uint8
	beat        int       // pictures since the keyframe
	last        [3][3]int // the last shot of each layer
	structure   *rewritetest.Structure
	rows        func(spatial, beat int) int // of the structure; beat -1: a keyframe
	free        bool                        // VP9: the pictures of a higher temporal layer need no earlier ones of theirs
}

// The orders of temporal layers that browsers send: the base, the top, the middle, the top.
var beats = [4]int{0, 2, 1, 2}

// kSVC is L3T3_KEY: spatial layers need each other at keyframes alone.
var kSVC = rewritetest.Structure{Offset: 63, Rows: []rewritetest.Row{
	rewritetest.R(0, 0, nil, nil, "SSSSSSSSS"), rewritetest.R(0, 0, []int{12}, nil, "------SSS"), rewritetest.R(0, 1, []int{6}, nil, "------SD-"), rewritetest.R(0, 2, []int{3}, nil, "------D--"),
	rewritetest.R(1, 0, []int{1}, nil, "SSSSSS---"), rewritetest.R(1, 0, []int{12}, nil, "---SSS---"), rewritetest.R(1, 1, []int{6}, nil, "---SD----"), rewritetest.R(1, 2, []int{3}, nil, "---D-----"),
	rewritetest.R(2, 0, []int{1}, nil, "SSS------"), rewritetest.R(2, 0, []int{12}, nil, "SSS------"), rewritetest.R(2, 1, []int{6}, nil, "SD-------"), rewritetest.R(2, 2, []int{3}, nil, "D--------"),
}}

func newCamera(t *rapid.T, enc int, codec rewrite.Codec, film *[]*shot, alone bool) *camera {
	c := &camera{enc: enc, codec: codec, film: film, draw: t,
		seq: rapid.Uint16().Draw(t, "seq"), number: rapid.Uint16().Draw(t, "number"), ts: rapid.Uint32().Draw(t, "ts"), tl0: rapid.Uint8().Draw(t, "tl0")}
	if codec != rewrite.AV1 {
		return c
	}
	kind := 0
	if alone {
		kind = rapid.IntRange(0, 2).Draw(t, "structure")
	}
	switch kind {
	case 0:
		c.structure, c.rows = &rewritetest.L1T3, func(_, beat int) int { return []int{0, 1, 3, 2, 4}[beat+1] }
	case 1:
		c.structure, c.rows = &rewritetest.L3T3, func(s, beat int) int { return 5*s + []int{0, 1, 3, 2, 4}[beat+1] }
	case 2:
		c.structure, c.rows = &kSVC, func(s, beat int) int { return 4*s + []int{0, 1, 3, 2, 3}[beat+1] }
	}
	return c
}

func (c *camera) spatials() int {
	switch {
	case c.codec == rewrite.VP9:
		return 3
	case c.structure != nil:
		return c.structure.Rows[len(c.structure.Rows)-1].S + 1
	}
	return 1
}

// picture makes the packets of the next picture.
func (c *camera) picture(key bool) (out [][]byte) {
	if key {
		c.beat = 0
	}
	beat := c.beat % 4
	c.beat++
	c.ts += 3000
	if c.codec != rewrite.AV1 {
		c.number++
	}
	if beats[beat] == 0 {
		c.tl0++
	}
	if c.codec == rewrite.VP9 && beats[beat] == 0 { // said with the base, and true until the next
		c.free = key || rapid.Bool().Draw(c.draw, "free")
	}
	for s := range c.spatials() {
		f := c.shoot(s, beat, key)
		for n := range f.packets {
			out = append(out, c.packet(f, n, beat, s+1 == c.spatials()))
		}
	}
	return out
}

func (c *camera) shoot(s, beat int, key bool) *shot {
	if c.codec == rewrite.AV1 {
		c.number++
	}
	f := &shot{id: len(*c.film), enc: c.enc, spatial: s, temporal: beats[beat], key: key, number: c.number, tl0: c.tl0,
		begins: s == 0, packets: rapid.IntRange(1, 3).Draw(c.draw, "packets")}
	*c.film = append(*c.film, f)
	switch c.codec {
	case rewrite.AV1:
		c.byTable(f, beat)
	case rewrite.H264:
		if f.temporal = 0; !key {
			f.refs = []int{c.last[0][0]}
		}
	default:
		c.refer(f, beat)
	}
	c.last[s][f.temporal] = f.id
	return f
}

// refer finds what a frame of VP8 or VP9 is predicted from.
func (c *camera) refer(f *shot, beat int) {
	of := &c.last[f.spatial]
	switch {
	case f.key:
	case beat == 3:
		f.refs = []int{of[1]}
	default:
		f.refs = []int{of[0]}
	}
	if c.codec == rewrite.VP9 {
		if !c.free && f.temporal > 0 {
			f.refs = append(f.refs, of[f.temporal])
		}
		if f.spatial > 0 {
			f.refs = append(f.refs, f.id-1)
		}
	}
	if f.key { // whatever is read of a layer before it was written is the keyframe's
		for t := range of {
			of[t] = f.id
		}
	}
}

func (c *camera) row(f *shot, beat int) int {
	if f.key {
		beat = -1
	}
	return c.rows(f.spatial, beat)
}

func (c *camera) byTable(f *shot, beat int) {
	row := c.structure.Rows[c.row(f, beat)]
	f.targets = row.Targets
	for _, diff := range row.Fdiffs {
		for _, other := range *c.film {
			if other.enc == f.enc && other.number == f.number-uint16(diff) {
				f.refs = append(f.refs, other.id)
			}
		}
	}
}

// packet writes one of a shot's packets.
func (c *camera) packet(f *shot, n, beat int, top bool) []byte {
	first, last := n == 0, n+1 == f.packets
	c.seq++
	p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, SSRC: uint32(c.enc), SequenceNumber: c.seq, Timestamp: c.ts, Marker: last && top}}
	bit := func(on bool, bit byte) byte {
		if on {
			return bit
		}
		return 0
	}
	pid := [2]byte{0x80 | byte(f.number>>8), byte(f.number)}
	switch c.codec {
	case rewrite.VP8:
		p.Payload = []byte{0x80 | bit(first, 0x10), 0xf0, pid[0], pid[1], f.tl0, byte(f.temporal)<<6 | bit(beat == 1 || beat == 2, 0x20), bit(!f.key, 1)}
	case rewrite.VP9:
		up := f.temporal > 0 || c.free // with the base it says what follows is free; of the others it says nothing new
		if f.temporal == 2 {
			up = true
		}
		if !c.free && f.temporal < 2 {
			up = false
		}
		p.Payload = []byte{0xa0 | bit(!f.key, 0x40) | bit(first, 8) | bit(last, 4), pid[0], pid[1],
			byte(f.temporal)<<5 | bit(up, 0x10) | byte(f.spatial)<<1 | bit(f.spatial > 0, 1), f.tl0, 0}
	case rewrite.H264:
		p.Payload = []byte{0x41, 0x9a, 0}
		if f.key {
			p.Payload = []byte{0x65, bit(n < 2, 0x80), 0} // behind the parameters if there are more packets than one
			if first && !last {
				p.Payload = []byte{0x67, 0x42, 0}
			} else if first {
				p.Payload = []byte{0x78, 0, 2, 0x67, 0x42, 0, 2, 0x65, 0x88, 0, 0}
			}
		}
	case rewrite.AV1:
		p.Payload = []byte{0x10 | bit(first && f.key && f.spatial == 0, 8), 0}
		say := rewritetest.Packet{Start: first, End: last, Template: (c.structure.Offset + c.row(f, beat)) % 64, Frame: f.number, Mask: -1}
		if first && f.key && f.spatial == 0 {
			say.Structure = c.structure
		}
		b := say.Write()
		profile := uint16(rtp.ExtensionProfileOneByte)
		if len(b) > 16 {
			profile = rtp.ExtensionProfileTwoByte
		}
		p.SetExtensionWithProfile(7, b, profile)
	}
	p.Payload = binary.BigEndian.AppendUint32(p.Payload, uint32(f.id))
	p.Payload = append(p.Payload, byte(n))
	b, err := p.Marshal()
	if err != nil {
		panic(err)
	}
	return b
}
