package sfu

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"

	"orama.network/orama/internal/sfu/srtp"
)

// route is where one peer's media goes, whichever ICE session it is of: to where the peer's own comes from, by the peer's place among the
// senders. It is the ICE agents' UDPMux.
type route struct {
	*pathMux
	out    *outlet // nil: there is no sender
	egress *egress
	taps   *taps
	at     atomic.Pointer[netip.AddrPort] // nil: nothing has come
	heard  atomic.Int64                   // Unix ns of the last packet that pion was spared; 0: none was

	// What was found allowed last, and by which sources. The egress's lock guards them.
	passed   *netip.AddrPort
	passedBy *sources
}

// open gives where media is sent to now. The egress's lock is held.
func (r *route) open() (netip.AddrPort, error) {
	at := r.at.Load()
	if at == nil {
		return netip.AddrPort{}, errNoPath
	}
	if by := r.relays(); at != r.passed || by != r.passedBy {
		if !by.contains(*at) {
			return netip.AddrPort{}, errNotRelay
		}
		r.passed, r.passedBy = at, by
	}
	return *at, nil
}

// route gives a peer its own. It must be ended.
func (m *pathMux) route(t *taps) *route {
	r := &route{pathMux: m, egress: t.out, taps: t}
	if m.out != nil {
		r.out = m.out.outlet()
	}
	return r
}

// GetConn is how an ICE agent gets its share of the socket.
func (r *route) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	return r.share(ufrag, addr, r)
}

var _ ice.UDPMux = (*route)(nil)

// moved notes that the peer's media comes from another address now.
func (r *route) moved(at *netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveLocked()
	r.at.Store(at)
	r.routes[*at] = r
}

// end forgets the peer's address.
func (r *route) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaveLocked()
}

func (r *route) leaveLocked() {
	if at := r.at.Load(); at != nil && r.routes[*at] == r {
		delete(r.routes, *at)
	}
}

// hear takes what comes to the socket from where a peer's media comes, if it is RTCP that is for us alone, or media of a stream that is known: it needs none of pion's
// queues. The socket's one reader calls it, and passes on what it does not take.
func (m *pathMux) hear(b []byte, from netip.AddrPort, at time.Time) bool {
	if len(b) < rtpHeader || b[0]>>6 != 2 || isRTCP(b) && b[1] == rtcpSenderReport {
		return false
	}
	m.mu.RLock()
	r := m.routes[netip.AddrPortFrom(from.Addr().Unmap(), from.Port())]
	m.mu.RUnlock()
	if r == nil {
		return false
	}
	open := r.egress.secure.open.Load()
	if open == nil {
		return false
	}
	spared := false
	if isRTP(b) {
		spared = r.taps.media(open, m.plain[:0], b, at)
	} else {
		plain, err := open.OpenRTCP(m.plain[:0], b)
		spared = err == nil && r.egress.hear(plain, time.Now())
	}
	if spared {
		r.heard.Store(at.UnixNano())
	}
	return spared
}

// secrets are what a peer's connection protects media with. Its egress's lock guards all but up and open.
type secrets struct {
	to    *route                      // nil: there is no connection, and writers are as they came
	heard *srtp.Handshake             // with the client
	up    atomic.Bool                 // the handshake is over, and the client is who it should be
	open  atomic.Pointer[srtp.Opener] // of what the client sends, for the socket's reader; nil: pion does it

	begun   bool         // seal is known: for the whole life of the connection, as no nonce may be used by two senders
	seal    *srtp.Sealer // nil: pion does it
	streams map[uint32]*stream
	reports uint32 // how many of ours have left
	nonce   srtp.Nonce
	buf     *[maxPacket]byte // where packets are written; nil: none was
}

// memory gives where the next packet is written: what leaves by the outbox is written, and protected, where it waits.
func (s *secrets) memory() *[maxPacket]byte {
	if s.buf == nil {
		if s.to != nil && s.to.out != nil {
			s.buf = s.to.out.buffer()
		} else {
			s.buf = new([maxPacket]byte)
		}
	}
	return s.buf
}

// stream is one SSRC, through all negotiations of its section: neither its numbers nor its rollovers begin anew.
type stream struct {
	srtp.Stream
	rtxSeq uint16 // of the last packet, if it is one of retransmissions
}

// stream gives that of an SSRC. A connection has two for each of its sections.
func (s *secrets) stream(ssrc uint32) *stream {
	if s.streams == nil {
		s.streams = map[uint32]*stream{}
	}
	x := s.streams[ssrc]
	if x == nil {
		x = &stream{}
		s.streams[ssrc] = x
	}
	return x
}

// forget gives up SSRCs that nothing is sent with any more, and never again.
func (e *egress) forget(ssrcs ...uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ssrc := range ssrcs {
		delete(e.secure.streams, ssrc)
	}
}

// bind makes b's packets go this way.
func (s *secrets) bind(b *binding) {
	b.rtx = s.stream(b.rtxSSRC)
	if s.to != nil && s.to.out != nil {
		b.writer = &secureWriter{secrets: s, plain: b.writer, ssrc: b.ssrc, media: &s.stream(b.ssrc).Stream, rtx: &b.rtx.Stream}
	}
}

// begin notes that the handshake is over, and that the client is who it should be. pion's transport is locked meanwhile, and a writer that finds pion to be needed wants that
// lock while it has ours: so it must not find the handshake over before we have ours.
func (e *egress) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secure.up.Store(true)
	e.secure.ready()
}

// ready reports whether something can be sent.
func (s *secrets) ready() bool {
	if !s.begun && s.up.Load() {
		s.begun = true
		seal, open, err := s.heard.Keys()
		if err == nil { // else another protection than AES-GCM, or a client that would not begin the handshake
			s.seal = seal
			s.open.Store(open)
		}
	}
	return s.begun
}

// secureWriter protects the packets of one section, and puts them among what is sent: without pion, whose sessions, counters and candidates
// cost more than the cipher. What it has no keys for, pion protects.
type secureWriter struct {
	*secrets
	plain      io.Writer
	ssrc       uint32
	media, rtx *srtp.Stream
}

// Write takes a whole RTP packet, in the egress's memory. The egress's lock is held.
func (w *secureWriter) Write(b []byte) (int, error) {
	if !w.ready() {
		return 0, errNoPath
	}
	if w.seal == nil {
		return w.plain.Write(b)
	}
	at, err := w.to.open()
	if err != nil {
		return 0, err
	}
	stream := w.rtx
	if binary.BigEndian.Uint32(b[8:]) == w.ssrc {
		stream = w.media
	}
	out, err := w.seal.Seal(b, stream)
	if err != nil {
		return 0, err
	}
	w.buf = w.to.out.send(w.buf, len(out), at) // lost where there is no room
	return len(b), nil
}

// writeReports sends a compound packet of sender reports of our sections. It reports false where pion has to: every index is used once.
func (e *egress) writeReports(b []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &e.secure
	if s.to == nil || !s.ready() || s.seal == nil {
		return s.to != nil && !s.begun // too early for either
	}
	at, err := s.to.open()
	if err != nil {
		return true
	}
	s.reports++
	if out, err := s.seal.SealRTCP(s.memory()[:0], b, s.reports, &s.nonce); err == nil {
		s.buf = s.to.out.send(s.buf, len(out), at) // lost where there is no room
	}
	return true
}
