package sfu

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

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
)

// egress is the way of everything that one subscriber is sent as media: numbered across all sections, so that the subscriber's feedback tells what
// the path carries, and held back to what it carries where that is less than is wanted. Its lock is taken after a section's.
type egress struct {
	metrics *metrics
	share   func() // what is sent has to be shared out anew: posts, and is called under mu
	target  atomic.Int64
	rtt     atomic.Int64 // ns

	mu       sync.Mutex
	sections map[uint32]*down // guarded by mu, as all below; by SSRC
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
	padded   *binding  // whose retransmissions carry padding; nil: nobody's do
	timer    *time.Timer
	ticking  bool
	closed   bool

	hdr     rtp.Header
	number  [2]byte
	deps    [rewrite.MaxDescriptor]byte // of a packet, rewritten
	payload []byte
	old     packet // one taken from a history
	oldRaw  [maxPacket]byte
}

// binding is how a section is negotiated. It does not change; another negotiation makes another.
type binding struct {
	writer  webrtc.TrackLocalWriter
	ssrc    uint32
	pt      uint8  // of the codec
	ptRED   uint8  // 0: the subscriber takes no RED
	rtxSSRC uint32 // 0: lost packets are sent again as they were
	rtxPT   uint8
	exts    extensionIDs
	twccID  uint8 // 0: it gives no feedback on the transport

	rtxSeq uint16 // guarded by the egress's lock
}

func newEgress(m *metrics, share func()) *egress {
	return &egress{metrics: m, share: share, sections: map[uint32]*down{}, payload: make([]byte, 0, maxPacket)}
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
	e.sections[b.ssrc] = d
	e.feeds = e.feeds || b.twccID != 0
}

func (e *egress) release(b *binding) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sections, b.ssrc)
	if e.padded == b {
		e.padded = nil
	}
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

// takes reports whether video that comes now is sent within useful time.
func (e *egress) takes(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pace == nil || e.pace.Takes(bwe.Video) || !e.scarceLocked(now)
}

// send sends a packet, now or as soon as the path carries it.
func (e *egress) send(c parcel, p *packet, payload []byte, audio bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.spare = min(e.spare+1, resendMost*resendShare)
	if c.as.twccID == 0 {
		e.writeLocked(c, p, payload, 0)
		return
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
	} else if c.as.rtxPT != 0 {
		e.padded = c.as
	}
	e.pace.Advance(p.at)
	if probe, ok := e.pace.Pass(class, len(payload)+overhead, !e.scarceLocked(p.at)); ok {
		e.writeLocked(c, p, payload, probe)
		return
	}
	e.pace.Push(class, c, len(payload)+overhead) // takes was asked
	e.tickLocked()
}

// again sends a packet that was lost. It reports false when no more can be.
func (e *egress) again(c parcel, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.spare < resendShare {
		return false
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
	if !c.from.history.get(c.src, &c.from.up.kinds, &e.old, &e.oldRaw) {
		return
	}
	if c.again {
		e.metrics.retransmitted.Add(1)
	}
	e.old.at = time.Now()
	e.writeLocked(c, &e.old, e.old.payload, probe)
}

// writeLocked writes one packet as the subscriber is to see it.
func (e *egress) writeLocked(c parcel, p *packet, payload []byte, probe int) {
	b := c.as
	out := e.payload[:0]
	e.hdr = rtp.Header{
		Version: 2, Marker: c.marker, PayloadType: c.pt, SequenceNumber: c.n.Seq, Timestamp: c.n.TS, SSRC: b.ssrc, Extensions: e.hdr.Extensions[:0],
	}
	if c.again && b.rtxPT != 0 { // RFC 4588 section 4
		b.rtxSeq++
		e.hdr.SSRC, e.hdr.PayloadType, e.hdr.SequenceNumber = b.rtxSSRC, b.rtxPT, b.rtxSeq
		out = binary.BigEndian.AppendUint16(out, c.n.Seq)
	}
	if p.info.HasPID() { // other subscribers are sent the same bytes: this one's head is a copy
		var head [8]byte
		n := p.info.Apply(c.n, payload, head[:])
		out = append(out, head[:n]...)
		payload = payload[n:]
	}
	if len(out) > 0 {
		payload = append(out, payload...)
	}
	e.extendLocked(&c, p)
	e.stampLocked(b, len(payload)+overhead, p.at, probe)
	if _, err := b.writer.WriteRTP(&e.hdr, payload); err == nil && !c.again {
		e.metrics.packetsOut.Add(1)
	}
}

// stampLocked numbers a packet across all sections, and notes that it leaves.
func (e *egress) stampLocked(b *binding, size int, now time.Time, probe int) {
	if b.twccID == 0 || e.est == nil {
		return
	}
	e.seq++
	binary.BigEndian.PutUint16(e.number[:], e.seq)
	e.hdr.SetExtension(b.twccID, e.number[:]) //nolint:errcheck // two bytes always fit
	e.est.Sent(e.seq, size, now, probe)
}

// padLocked sends one packet of nothing, which a receiver counts and throws away, in the stream of retransmissions: RFC 4588 leaves their numbers to us.
func (e *egress) padLocked(size, probe int, now time.Time) {
	b := e.padded
	for left := size; left > 0; left -= paddingMost + overhead {
		b.rtxSeq++
		e.hdr = rtp.Header{
			Version: 2, Padding: true, PaddingSize: paddingMost, PayloadType: b.rtxPT, SequenceNumber: b.rtxSeq, SSRC: b.rtxSSRC,
			Extensions: e.hdr.Extensions[:0],
		}
		e.stampLocked(b, paddingMost+overhead, now, probe)
		b.writer.WriteRTP(&e.hdr, nil) //nolint:errcheck // the section is going
		e.metrics.padding.Add(1)
	}
}

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
		if e.padded == nil {
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
	if e.padded != nil {
		if c, ok := e.est.Probe(now); ok {
			e.pace.Probe(c)
			e.tickLocked()
		}
	}
	scarce := e.scarceLocked(now)
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
