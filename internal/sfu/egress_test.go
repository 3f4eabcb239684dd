package sfu

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/sfu/allot"
	"orama.network/orama/internal/signal"
)

const twccID = 5

// access is the way to a subscriber that carries so much, and the subscriber: what arrives there, and what it says of that.
type access struct {
	out     *egress
	rate    int  // bits a second; 0: any
	mute    bool // it says nothing
	dead    bool // nothing arrives
	queue   time.Duration
	began   time.Time
	freeAt  time.Duration // when the bottleneck has sent what it was given
	arrived []arrival     // since the last feedback
	next    uint16        // the first number of the next feedback

	got      map[uint32][]heardPacket // by SSRC
	dropped  int
	audioGap time.Duration
	audioAt  time.Duration
}

type arrival struct {
	seq uint16
	at  time.Duration
}

type heardPacket struct {
	hdr     rtp.Header
	payload []byte
	at      time.Duration
}

const oneWay = 20 * time.Millisecond

func newAccess(out *egress) *access {
	return &access{out: out, queue: 300 * time.Millisecond, began: time.Now(), got: map[uint32][]heardPacket{}, next: 1}
}

// Write is how the SFU sends; the egress's lock is held.
func (a *access) Write(b []byte) (int, error) {
	var p rtp.Packet
	if err := p.Unmarshal(b); err != nil {
		panic(err)
	}
	h, payload := &p.Header, p.Payload
	now := time.Since(a.began)
	if a.dead {
		a.dropped++
		return len(payload), nil
	}
	if a.rate > 0 {
		size := len(payload) + overhead
		if h.Padding {
			size += int(h.PaddingSize)
		}
		a.freeAt = max(a.freeAt, now)
		if a.freeAt-now > a.queue {
			a.dropped++
			return size, nil
		}
		a.freeAt += time.Duration(float64(size*8) / float64(a.rate) * float64(time.Second))
	} else {
		a.freeAt = now
	}
	at := a.freeAt + oneWay
	if number := h.GetExtension(twccID); number != nil {
		a.arrived = append(a.arrived, arrival{seq: binary.BigEndian.Uint16(number), at: at})
	}
	a.got[h.SSRC] = append(a.got[h.SSRC], heardPacket{hdr: h.Clone(), payload: append([]byte(nil), payload...), at: at})
	if h.PayloadType == 111 {
		if a.audioAt > 0 {
			a.audioGap = max(a.audioGap, at-a.audioAt)
		}
		a.audioAt = at
	}
	return len(payload), nil
}

// report gives the SFU feedback on what has arrived, half a round trip late.
func (a *access) report(t *testing.T) {
	now := time.Since(a.began)
	here := map[uint16]time.Duration{}
	last, n := a.next, 0
	a.out.mu.Lock()
	for ; n < len(a.arrived) && a.arrived[n].at <= now; n++ {
		here[a.arrived[n].seq] = a.arrived[n].at
		last = a.arrived[n].seq
	}
	a.arrived = a.arrived[n:]
	a.out.mu.Unlock()
	if n == 0 || a.mute {
		return
	}
	reference := uint32(here[last] / twccUnit)
	for _, at := range here {
		reference = min(reference, uint32(at/twccUnit))
	}
	var deltas []int
	at := time.Duration(reference) * twccUnit / twccTick
	for seq := a.next; seq != last+1; seq++ {
		if came, ok := here[seq]; ok {
			deltas = append(deltas, int(came/twccTick-at))
			at = came / twccTick
		} else {
			deltas = append(deltas, -1)
		}
	}
	a.next = last + 1
	b := feedbackOf(t, last+1-uint16(len(deltas)), reference, deltas)
	time.AfterFunc(oneWay, func() { a.out.feedback(b, time.Now()) })
}

// call is one subscriber that is sent sound, and video in three encodings.
type call struct {
	t     *testing.T
	peer  *peer
	acc   *access
	voice *down
	video *down
	ups   []*up
	seq   [4]uint16
	frame int

	source  func() int // what the only encoding is to send now, bits a second; nil: the encodings send layerRates
	encoded int        // source's own
	each    func()     // every second
}

func newCall(t *testing.T) *call {
	c := &call{t: t}
	p := &peer{inbox: newMailbox(), allot: allot.New(), srv: &Server{metrics: newMetrics()}}
	p.out = newEgress(p.srv.metrics, func() { p.post(func() { p.shareOut(time.Now()) }) })
	c.peer, c.acc = p, newAccess(p.out)
	sound := &up{id: "a", kind: webrtc.RTPCodecTypeAudio, codec: opus, metrics: p.srv.metrics}
	sound.subs.Store(&[]*down{})
	sound.layers.Store(&[]*layer{{up: sound}})
	picture := ladder(time.Now())
	picture.id = "v"
	for _, l := range *picture.layers.Load() {
		l.top.Store(0)
		l.ended = true // nobody answers its requests; keyframes come by themselves
	}
	c.ups = []*up{sound, picture}
	for i, u := range c.ups {
		d := newDown(u, p.out)
		d.state = slotActive
		d.bound = &binding{writer: c.acc, ssrc: uint32(10 + i), pt: 111, twccID: twccID}
		if i == 1 {
			d.bound = &binding{writer: c.acc, ssrc: 11, pt: 96, rtxSSRC: 12, rtxPT: 97, twccID: twccID}
		}
		p.out.bind(d, d.bound)
		u.attach(d)
		p.wants = append(p.wants, &want{up: u, down: d})
	}
	p.shareOut(time.Now())
	c.voice, c.video = p.wants[0].down, p.wants[1].down
	t.Cleanup(p.out.close)
	return c
}

// layerRates are what the encodings send, bits a second with all headers.
var layerRates = [3]int{150_000, 400_000, 2_300_000}

// run lets d pass.
func (c *call) run(d time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range d / time.Millisecond {
		<-tick.C
		ms := time.Since(c.acc.began).Milliseconds()
		if ms%20 == 0 {
			c.packet(0, 0, 70, true, false)
		}
		if ms%33 == 0 {
			c.picture()
		}
		if ms%50 == 0 {
			c.acc.report(c.t)
		}
		if ms%1000 == 0 {
			c.peer.shareOut(time.Now())
			if c.each != nil {
				c.each()
			}
		}
		for _, f := range c.peer.inbox.take() {
			f()
		}
	}
}

func (c *call) picture() {
	c.frame++
	for n := range *c.ups[1].layers.Load() {
		rate := layerRates[n]
		if c.source != nil {
			rate = c.source()
		}
		bytes := rate / 8 / 30
		packets := (bytes + 1199) / 1200
		for k := range packets {
			c.packet(1, n, max(bytes/packets-overhead, 20), k == packets-1, k == 0 && c.frame%15 == 0)
		}
	}
}

// packet has an encoding send a packet.
func (c *call) packet(track, encoding, size int, marker, key bool) {
	u := c.ups[track]
	l := (*u.layers.Load())[encoding]
	n := track + encoding
	c.seq[n]++
	raw := make([]byte, 12+size)
	raw[0], raw[1] = 0x80, byte(96-96*(1-track)+111*(1-track))
	if marker {
		raw[1] |= 0x80
	}
	binary.BigEndian.PutUint16(raw[2:], c.seq[n])
	binary.BigEndian.PutUint32(raw[4:], uint32(c.frame*3000))
	raw[12+3] = 1
	if track == 1 {
		raw[12], raw[13] = 0x10, 1
		if key {
			raw[13] = 0
		}
	}
	p := &packet{up: u, layer: l}
	require.True(c.t, p.parse(raw, &extensionKinds{}))
	if track == 1 {
		require.True(c.t, p.look())
		l.history.put(raw, p)
	} else {
		l.count(p)
	}
	for _, d := range *u.subs.Load() {
		d.forward(p)
	}
}

func (c *call) estimate() int { return int(c.peer.out.target.Load()) }

// The way to a subscriber changes from 3 Mbit/s to 500 kbit/s and back. The estimate follows, the encoding with it, and sound never gaps.
func TestASubscriberBehindAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(t)
		c.acc.rate = 3_000_000
		c.run(10 * time.Second)
		require.Equal(t, 2, c.video.from.order, "the best encoding, as there is room")
		require.Zero(t, c.acc.dropped)
		require.Zero(t, c.peer.srv.metrics.heldBack.Load())
		require.False(t, c.peer.limited)

		c.acc.rate = 500_000
		c.run(3 * time.Second)
		require.InDelta(t, 500_000, c.estimate(), 100_000, "3 s after the step down")
		require.True(t, c.peer.limited, "the quality message says why")
		c.run(5 * time.Second)
		require.Less(t, c.video.from.order, 2, "an encoding that fits beside sound")
		before := len(c.acc.got[11])
		c.run(2 * time.Second)
		require.Greater(t, len(c.acc.got[11])-before, 50, "and it is sent")

		c.acc.rate = 3_000_000
		c.run(8 * time.Second)
		require.InDelta(t, 3_000_000, c.estimate(), 600_000, "8 s after the step up")
		c.run(5 * time.Second)
		require.Equal(t, 2, c.video.from.order)
		require.Less(t, c.acc.audioGap, 500*time.Millisecond, "no longer than the step's own queue, and what it drops, take")
		t.Logf("sound's longest gap %s, %d dropped, %d packets of padding", c.acc.audioGap, c.acc.dropped, c.peer.srv.metrics.padding.Load())
		c.unbroken()
	})
}

// Where no picture has room, nothing but padding finds out that the path has become wider, and any section can carry it: also when the one that
// was sent last has gone, or was negotiated again.
func TestAStarvedSubscriberIsFoundRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(t)
		c.acc.rate = 100_000
		c.run(10 * time.Second)
		require.True(t, c.video.starved)
		visitor := &binding{writer: c.acc, ssrc: 21, pt: 96, rtxSSRC: 22, rtxPT: 97, twccID: twccID}
		d := newDown(c.ups[1], c.peer.out)
		c.peer.out.bind(d, visitor)
		c.peer.out.release(visitor)
		c.acc.rate = 3_000_000
		c.run(15 * time.Second)
		require.False(t, c.video.starved)
		require.Equal(t, 2, c.video.from.order)
		c.unbroken()
	})
}

// unbroken checks that the subscriber can decode what arrived.
func (c *call) unbroken() {
	var last *rtp.Header
	for i := range c.acc.got[11] {
		h := &c.acc.got[11][i].hdr
		if last != nil {
			require.GreaterOrEqual(c.t, int32(h.Timestamp-last.Timestamp), int32(0), "the clock never runs back")
			require.Positive(c.t, int16(h.SequenceNumber-last.SequenceNumber), "in order")
		}
		last = h
	}
}

// A subscriber that gives no feedback is sent everything, as there is nothing to go by: at once where it promised none, soon where it did.
func TestASubscriberWithoutFeedback(t *testing.T) {
	for promised, within := range map[bool]time.Duration{false: 600 * time.Millisecond, true: deafAfter + 2*time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := newCall(t)
			c.acc.mute = true
			if !promised {
				c.peer.out.feeds = false
				c.voice.bound.twccID, c.video.bound.twccID = 0, 0
				c.peer.shareOut(time.Now())
			}
			c.run(within)
			require.Equal(t, 2, c.video.from.order)
			require.Zero(t, c.peer.srv.metrics.padding.Load())
			require.Zero(t, c.peer.srv.metrics.heldBack.Load())
			require.False(t, c.peer.limited)
			require.Equal(t, promised, c.peer.out.est != nil)
		})
	}
}

// A relay dies, and the call goes on through another after two seconds: what was lost with it is no sign of a narrow path, and the
// picture is back at once, as large as before.
func TestASubscriberWhoseRelayDies(t *testing.T) {
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCall(t)
			c.acc.rate = 5_000_000
			c.run(5 * time.Second)
			before := c.estimate()
			c.acc.dead = true
			c.run(2 * time.Second)
			c.acc.dead = false
			if told {
				c.peer.out.moved(time.Now())
			}
			c.run(500 * time.Millisecond)
			require.GreaterOrEqual(t, c.estimate(), before)
			require.False(t, c.peer.limited)
			require.Equal(t, 2, c.video.from.order)
			require.False(t, c.video.starved)
			require.Zero(t, c.peer.srv.metrics.heldBack.Load())
			n := len(c.acc.got[11])
			c.run(time.Second)
			require.Greater(t, len(c.acc.got[11])-n, 200)
		})
	}
}

// A lost packet is sent again as RFC 4588 says: once for each round trip, and no more than is sent otherwise.
func TestLostPacketsAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(t)
		c.run(time.Second)
		sent := c.acc.got[11]
		lost := sent[len(sent)-20]
		ask := func(seq, mask uint16) {
			b := make([]byte, 16)
			b[0], b[1] = 0x80|formatNACK, rtcpTransport
			binary.BigEndian.PutUint32(b[8:], 11)
			binary.BigEndian.PutUint16(b[12:], seq)
			binary.BigEndian.PutUint16(b[14:], mask)
			source := &tap{ssrc: 11, out: c.peer.out}
			source.Write(b)
		}
		again := func() (n int) { // without padding
			c.peer.out.mu.Lock()
			defer c.peer.out.mu.Unlock()
			for _, p := range c.acc.got[12] {
				if len(p.payload) > 0 {
					n++
				}
			}
			return n
		}
		require.Zero(t, again())
		ask(lost.hdr.SequenceNumber, 0)
		require.Equal(t, 1, again())
		x := c.acc.got[12][len(c.acc.got[12])-1]
		require.EqualValues(t, 97, x.hdr.PayloadType)
		require.Equal(t, lost.hdr.SequenceNumber, binary.BigEndian.Uint16(x.payload))
		require.Equal(t, lost.payload, x.payload[2:])
		require.Equal(t, lost.hdr.Timestamp, x.hdr.Timestamp)
		require.Equal(t, lost.hdr.Marker, x.hdr.Marker)
		ask(lost.hdr.SequenceNumber, 0)
		require.Equal(t, 1, again(), "the request crossed the answer")
		ask(lost.hdr.SequenceNumber+3000, 0xffff)
		require.Equal(t, 1, again(), "never sent")
		ask(lost.hdr.SequenceNumber, 0b101)
		require.Equal(t, 3, again(), "the second and the fourth, without the first")
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for range 5 {
			<-tick.C
			for seq := range uint16(2000) {
				ask(seq, 0)
			}
		}
		require.LessOrEqual(t, again(), 3+resendMost+1, "what it asks for costs us")
		require.EqualValues(t, again(), c.peer.srv.metrics.retransmitted.Load())
	})
}

// What is kept is what came last, for its time, and no more.
func TestHistory(t *testing.T) {
	var h history
	now := start
	var raw [200]byte
	raw[0] = 0x80
	put := func(seq uint16) {
		binary.BigEndian.PutUint16(raw[2:], seq)
		p := &packet{}
		require.True(t, p.parse(raw[:], &extensionKinds{}))
		p.at = now
		h.put(raw[:], p)
	}
	has := func(seq uint16) bool {
		var p packet
		var buf [maxPacket]byte
		return h.get(seq, &extensionKinds{}, &p, &buf) && p.hdr.SequenceNumber == seq && len(p.payload) == 188
	}
	require.False(t, has(0))
	for n := range 500 { // a packet each 4 ms
		put(uint16(65300 + n))
		now = now.Add(4 * time.Millisecond)
	}
	first := uint16(500 - 236)
	for n := range uint16(250) {
		require.True(t, has(first-1-n), "%d before the last", n)
	}
	require.Len(t, h.slots, 256, "as many as a second needs")
	for n := range 5000 {
		put(uint16(n))
	}
	require.Len(t, h.slots, historyMost, "and never more than so many")
	require.True(t, has(4999))
	require.True(t, has(5000-historyMost))
	require.False(t, has(4999-historyMost))
}

// Muted and silenced tracks are given no share; a screen comes before cameras.
func TestWhatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(t)
		c.run(1500 * time.Millisecond)
		now := time.Now()
		video := c.peer.wants[1]
		d := c.peer.demand(video, now)
		require.Equal(t, allot.Camera, d.Kind)
		require.Len(t, d.Layers, 3)
		require.InDelta(t, 2_300_000, d.Layers[2].Bitrate, 100_000)
		require.Equal(t, 2, d.Layers[2].Spatial)
		video.width = 640
		require.Len(t, c.peer.demand(video, now).Layers, 2)
		c.peer.tracks = map[orama.TrackID]*published{"v": {info: signal.Track{Source: "screen"}}}
		require.Equal(t, allot.Screen, c.peer.demand(video, now).Kind)
		c.ups[1].muted.Store(true)
		require.Empty(t, c.peer.demand(video, now).Layers)
		sound := c.peer.demand(c.peer.wants[0], now)
		require.Equal(t, allot.Audio, sound.Kind)
		require.InDelta(t, (70+overhead)*8*50, sound.Layers[0].Bitrate, 2000)
	})
}

// written keeps the last packet.
type written struct{ last []byte }

func (w *written) Write(b []byte) (int, error) {
	w.last = append(w.last[:0], b...)
	return len(b), nil
}

// Redundancy goes to who takes it, unless the path has no room for it.
func TestANarrowPathHasSoundWithoutRedundancy(t *testing.T) {
	u := &up{kind: webrtc.RTPCodecTypeAudio, metrics: newMetrics()}
	u.subs.Store(&[]*down{})
	l := &layer{up: u, reports: &reports{}}
	u.layers.Store(&[]*layer{l})
	d, to := newDown(u, newEgress(u.metrics, func() {})), &written{}
	d.bound = &binding{writer: to, pt: 111, ptRED: 63}
	red := []byte{0x80 | 111, 0, 0, 3, 111, 1, 2, 3, 7, 8, 9} // three bytes of the frame before, then this one
	var seq uint16
	sent := func() []byte {
		seq++
		p := &packet{up: u, layer: l, payload: red, red: true, at: time.Unix(1000, int64(seq)*20_000_000)}
		p.hdr.SequenceNumber, p.hdr.Timestamp = seq, uint32(seq)*960
		d.forward(p)
		return to.last
	}
	whole := sent()
	require.EqualValues(t, 63, whole[1]&0x7f)
	require.Equal(t, red, whole[len(whole)-len(red):])
	d.to.lean.Store(true)
	plain := sent()
	require.EqualValues(t, 111, plain[1]&0x7f)
	require.Equal(t, []byte{7, 8, 9}, plain[len(plain)-3:])
	require.Len(t, plain, len(whole)-len(red)+3)
	d.to.lean.Store(false)
	require.EqualValues(t, 63, sent()[1]&0x7f)
}
