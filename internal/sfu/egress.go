package sfu

import (
	"encoding/binary"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"orama.network/orama/internal/sfu/bwe"
	"orama.network/orama/internal/sfu/rewrite"
)

const (
	// overhead is what a packet's payload costs beside itself on the subscriber's access, in bytes: IPv4 and UDP 28, ChannelData 4, RTP with
	// our extensions 24, SRTP's tag 16.
	overhead = 72
	// paddingMost is how much padding one packet carries; libwebrtc sends no more.
	paddingMost = 224
	// Packets may be sent again for one in resendShare that are sent, after resendMost of them: what a client asks for costs us as much as it, and where
	// what is sent again takes the place of what is new, nothing gets through.
	resendShare = 3
	resendMost  = 256
	// pauseLeast is the least time between two answers to requests for one packet.
	pauseLeast = 20 * time.Millisecond
	// deafAfter is how long a client that promised feedback may take to begin with it.
	deafAfter = 2 * time.Second
	// shareEvery is how often a changed estimate is shared out anew, when it does not sink.
	shareEvery = 100 * time.Millisecond
	// leanBelow is the estimate, bits a second, below which sound goes without redundancy: that is a tenth of what there is, and what is lost on such
	// a path is lost to its own queue.
	leanBelow = 400_000
)

// egress is the way of everything that one subscriber is sent as media: numbered across all sections, so that the subscriber's feedback tells what
// the path carries, and held back to what it carries where that is less than is wanted. Its lock is taken after a section's.
type egress struct {
	metrics *metrics
	share   func() // what is sent has to be shared out anew: posts, and is called under mu
	target  atomic.Int64
	rtt     atomic.Int64 // ns
	lean    atomic.Bool  // the path is so narrow that sound goes without redundancy

	mu       sync.Mutex
	sections map[uint32]*down // guarded by mu, as all below; by SSRC
	padders  []*binding       // those whose retransmissions can carry padding
	est      *bwe.Estimator   // nil until something is sent that feedback can speak of
	pace     *bwe.Pacer[parcel]
	acks     acks
	seq      uint16
	wanted   int       // bits a second
	feeds    bool      // a section says that feedback will come
	heard    bool      // it came
	since    time.Time // when the first packet was sent that it can speak of
	shared   time.Time // when share was called last
	told     int       // the estimate then
	scarce   bool      // and whether it was less than was wanted
	spare    int       // how many packets may be sent again, times resendShare
	timer    *time.Timer
	ticking  bool
	closed   bool

	secure secrets
	deps   [rewrite.MaxDescriptor]byte // of a packet, rewritten
	old    *pastCopy                   // one taken from a history; nil: none was
}

// pastCopy is memory for a packet that is sent later than it came.
type pastCopy struct {
	packet
	raw [maxPacket]byte
}

// binding is how a section is negotiated. It does not change; another negotiation makes another.
type binding struct {
	writer  io.Writer // of whole RTP packets
	ssrc    uint32
	pt      uint8  // of the codec
	ptRED   uint8  // 0: the subscriber takes no RED
	rtxSSRC uint32 // 0: lost packets are sent again as they were
	rtxPT   uint8
	exts    extensionIDs
	twccID  uint8   // 0: it gives no feedback on the transport
	rtx     *stream // of rtxSSRC; guarded by the egress's lock
}

func newEgress(m *metrics, share func()) *egress {
	return &egress{metrics: m, share: share, sections: map[uint32]*down{}}
}

// close ends what waits and runs.
func (e *egress) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.timer != nil {
		e.timer.Stop()
	}
}

// bind makes d the section of its SSRC; release takes one off.
func (e *egress) bind(d *down, b *binding) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secure.bind(b)
	e.sections[b.ssrc] = d
	e.feeds = e.feeds || b.twccID != 0
	if b.rtxPT != 0 && b.twccID != 0 {
		e.padders = append(e.padders, b)
	}
}

func (e *egress) release(b *binding) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sections, b.ssrc)
	e.padders = slices.DeleteFunc(e.padders, func(p *binding) bool { return p == b })
}

func (e *egress) section(ssrc uint32) *down {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sections[ssrc]
}

// scarceLocked reports whether the path is known to carry less than is wanted: only then something is held back.
func (e *egress) scarceLocked(now time.Time) bool {
	return e.heard && e.est.Target() < e.wanted && e.est.Limited(now)
}

// takesLocked reports whether video that comes now is sent within useful time.
func (e *egress) takesLocked(now time.Time) bool {
	return e.pace == nil || e.pace.Takes(bwe.Video) || !e.scarceLocked(now)
}

// sendLocked sends a packet, now or as soon as the path carries it. It gives the number that it had for the transport; 0: none yet.
func (e *egress) sendLocked(c parcel, p *packet, payload []byte, audio bool) uint16 {
	if e.closed {
		return 0
	}
	e.spare = min(e.spare+1, resendMost*resendShare)
	if c.as.twccID == 0 {
		return e.writeLocked(c, p, payload, 0)
	}
	if e.est == nil {
		e.est, e.pace = bwe.New(p.at), bwe.NewPacer[parcel](p.at, bwe.Start)
		e.target.Store(int64(e.est.Target()))
		e.est.Want(e.wanted)
		e.shared, e.since = p.at, p.at
	}
	class := bwe.Video
	if audio {
		class = bwe.Audio
	}
	e.pace.Advance(p.at)
	if probe, ok := e.pace.Pass(class, len(payload)+overhead, !e.scarceLocked(p.at)); ok {
		return e.writeLocked(c, p, payload, probe)
	}
	e.pace.Push(class, c, len(payload)+overhead) // takesLocked was asked
	e.tickLocked()
	return 0
}

// again sends a packet that was lost. It reports false when no more can be.
func (e *egress) again(c parcel, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.spare < resendShare {
		return false
	}
	if c.as.rtxPT == 0 && c.as.twccID != 0 && c.number == 0 {
		return true // it waited, so that what it was sent as is not known; a keyframe will do
	}
	e.spare -= resendShare
	if e.pace != nil && c.as.twccID != 0 {
		e.pace.Advance(now)
		probe, ok := e.pace.Pass(bwe.Retransmission, overhead+1000, !e.scarceLocked(now))
		if !ok {
			ok = e.pace.Push(bwe.Retransmission, c, overhead+1000)
			e.tickLocked()
			return ok
		}
		e.fetchLocked(c, probe)
		return true
	}
	e.fetchLocked(c, 0)
	return true
}

// pause is how long the answer to a request for a lost packet may be on its way.
func (e *egress) pause() time.Duration { return max(time.Duration(e.rtt.Load()), pauseLeast) }

// fetchLocked sends a packet that its encoding's history still has.
func (e *egress) fetchLocked(c parcel, probe int) {
	if e.old == nil {
		e.old = &pastCopy{}
	}
	p := &e.old.packet
	if !c.from.history.get(c.src, &c.from.up.kinds, p, &e.old.raw) {
		return
	}
	if c.again {
		e.metrics.retransmitted.Add(1)
	}
	p.at = time.Now()
	e.writeLocked(c, p, p.payload, probe)
}

// writeLocked writes one packet as the subscriber is to see it, and gives its number for the transport.
func (e *egress) writeLocked(c parcel, p *packet, payload []byte, probe int) (number uint16) {
	b := c.as
	plain := c.again && b.rtxPT == 0
	switch {
	case plain: // to the bit what it was: one nonce must never see two contents
		number = c.number
	case b.twccID != 0 && e.est != nil:
		number = e.nextLocked()
	}
	out, second := e.secure.memory()[:rtpHeader], c.pt
	if c.marker {
		second |= 0x80
	}
	if c.again && b.rtxPT != 0 { // RFC 4588 section 4
		b.rtx.rtxSeq++
		header(out, second&0x80|b.rtxPT, b.rtx.rtxSeq, c.n.TS, b.rtxSSRC)
	} else {
		header(out, second, c.n.Seq, c.n.TS, b.ssrc)
	}
	out = e.extendLocked(out, &c, p, number)
	if len(out)+len(payload)+rtxHeader > cap(out) {
		return 0 // larger than it was: nobody's path takes it
	}
	size := len(payload) + overhead
	if c.again && b.rtxPT != 0 {
		out, size = binary.BigEndian.AppendUint16(out, c.n.Seq), size+rtxHeader
	}
	if p.info.HasPID() {
		n := p.info.Apply(c.n, payload, out[len(out):cap(out)])
		out, payload = out[:len(out)+n], payload[n:]
	}
	out = append(out, payload...)
	if number != 0 && !plain {
		e.est.Sent(number, size, p.at, probe)
	}
	if _, err := b.writer.Write(out); err == nil && !c.again {
		e.metrics.packetsOut.Add(1)
	}
	return number
}

const (
	rtpHeader = 12 // the fixed part of a header, in bytes (RFC 3550 section 5.1)
	rtxHeader = 2  // the original number (RFC 4588 section 4)
)

// header writes a packet's fixed header. second is its marker and payload type.
func header(b []byte, second byte, seq uint16, ts, ssrc uint32) {
	b[0], b[1] = 0x80, second
	binary.BigEndian.PutUint16(b[2:], seq)
	binary.BigEndian.PutUint32(b[4:], ts)
	binary.BigEndian.PutUint32(b[8:], ssrc)
}

// nextLocked is the number of the next packet across all sections. There is no 0.
func (e *egress) nextLocked() uint16 {
	if e.seq++; e.seq == 0 {
		e.seq = 1
	}
	return e.seq
}

// padLocked sends one packet of nothing, which a receiver counts and throws away, in the stream of retransmissions: RFC 4588 leaves their numbers to us.
func (e *egress) padLocked(size, probe int, now time.Time) {
	b := e.padders[0]
	for left := size; left > 0; left -= paddingMost + overhead {
		b.rtx.rtxSeq++
		number := e.nextLocked()
		out := e.secure.memory()[:rtpHeader]
		header(out, b.rtxPT, b.rtx.rtxSeq, 0, b.rtxSSRC)
		out = appendExtensions(out, &extensionIDs{}, &extensionViews{}, b.twccID, number)
		out[0] |= 0x20
		out = append(out, noPadding[:]...)
		out[len(out)-1] = paddingMost
		e.est.Sent(number, paddingMost+overhead, now, probe)
		b.writer.Write(out) //nolint:errcheck // the section is going
		e.metrics.padding.Add(1)
	}
}

var noPadding [paddingMost]byte

// tickLocked has run called soon.
func (e *egress) tickLocked() {
	switch {
	case e.ticking || e.closed:
		return
	case e.timer == nil:
		e.timer = time.AfterFunc(bwe.Tick, e.run)
	default:
		e.timer.Reset(bwe.Tick)
	}
	e.ticking = true
}

// run sends what waited and may leave now.
func (e *egress) run() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ticking = false
	if e.closed {
		return
	}
	now := time.Now()
	e.pace.Advance(now)
	for c, probe, ok := e.pace.Pop(); ok; c, probe, ok = e.pace.Pop() {
		e.fetchLocked(c, probe)
	}
	for size, probe := e.pace.Padding(); size > 0; size, probe = e.pace.Padding() {
		if len(e.padders) == 0 {
			e.pace.Probe(bwe.Cluster{})
			break
		}
		e.padLocked(size, probe, now)
	}
	if e.pace.Busy() {
		e.tickLocked()
	}
}

// feedback takes a message on the whole transport.
func (e *egress) feedback(b []byte, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.est == nil || e.closed {
		return
	}
	list := e.acks.read(b)
	if list == nil {
		return
	}
	e.heard = true
	e.est.Feedback(now, list)
	e.rtt.Store(int64(e.est.RTT()))
	e.adjustLocked(now)
}

// adjustLocked acts on what the estimate has become: the pace, a probe, another share for the tracks.
func (e *egress) adjustLocked(now time.Time) {
	target := e.est.Target()
	e.target.Store(int64(target))
	e.pace.Rate(target)
	if len(e.padders) > 0 {
		if c, ok := e.est.Probe(now); ok {
			e.pace.Probe(c)
			e.tickLocked()
		}
	}
	scarce := e.scarceLocked(now)
	e.lean.Store(scarce && target < leanBelow)
	worse := scarce && (!e.scarce || target < e.told)
	more := e.told < e.wanted && target > e.told+e.told/20
	if worse || (scarce != e.scarce || more) && now.Sub(e.shared) > shareEvery {
		e.told, e.scarce, e.shared = target, scarce, now
		e.share()
	}
}

// moved says that the subscriber is reached by another path.
func (e *egress) moved(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.est != nil {
		e.est.Moved(now)
		e.adjustLocked(now)
	}
}

// tell says how much would be sent if the path carried it, in bits a second, and gives what it is known to carry. scarce: it is less.
func (e *egress) tell(wanted int, now time.Time) (target int, scarce bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wanted = wanted
	switch {
	case !e.feeds, e.est != nil && !e.heard && now.Sub(e.since) > deafAfter:
		return bwe.Max, false // there is nothing to go by
	case e.est == nil:
		e.told = bwe.Start
		return e.told, false
	}
	e.est.Want(wanted)
	if e.heard {
		e.est.Tick(now)
		e.adjustLocked(now)
	}
	e.told, e.scarce, e.shared = e.est.Target(), e.scarceLocked(now), now
	return e.told, e.scarce
}
