package sfu

import (
	"sync"
	"time"

	"orama.network/orama/internal/sfu/rewrite"
)

const (
	// historyFor is for how long a packet can be sent again: a loss is noticed within a tenth of a second, and asked for a few times.
	historyFor = time.Second
	// historyLeast and historyMost bound how many packets of one encoding are kept, whatever their rate: 2048 are a second of 20 Mbit/s, in 3 MB.
	historyLeast = 64
	historyMost  = 2048
)

// history keeps the last packets of an encoding of video, once for all its subscribers. Its reader puts; whoever sends one later, because it
// was lost or had to wait, gets a copy.
type history struct {
	mu    sync.Mutex
	slots []*pastPacket // guarded by mu; by the low bits of the sequence number, a power of two
}

// pastPacket is one packet as it came, decrypted.
type pastPacket struct {
	at   time.Time
	info rewrite.Info
	seq  uint16
	n    int
	raw  [maxPacket]byte
}

// put keeps a copy of raw.
func (h *history) put(raw []byte, p *packet) {
	seq := p.hdr.SequenceNumber
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots == nil {
		h.slots = make([]*pastPacket, historyLeast)
	}
	if k := h.at(seq); k != nil && k.seq == seq && p.at.Sub(k.at) < 2*historyFor {
		return // of two with one number the first was sent, and may be sent again
	}
	for k := h.at(seq); k != nil && k.seq != seq && p.at.Sub(k.at) < historyFor && len(h.slots) < historyMost; k = h.at(seq) {
		grown := make([]*pastPacket, 2*len(h.slots))
		for _, k := range h.slots {
			if k != nil {
				grown[int(k.seq)&(len(grown)-1)] = k
			}
		}
		h.slots = grown
	}
	k := h.at(seq)
	if k == nil {
		k = &pastPacket{}
		h.slots[int(seq)&(len(h.slots)-1)] = k
	}
	k.at, k.info, k.seq, k.n = p.at, p.info, seq, copy(k.raw[:], raw)
	k.info.Deps = nil // it holds until the next packet is read
}

// has reports whether a packet of a number was put lately.
func (h *history) has(seq uint16, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.slots == nil {
		return false
	}
	k := h.at(seq)
	return k != nil && k.seq == seq && now.Sub(k.at) < 2*historyFor
}

func (h *history) at(seq uint16) *pastPacket { return h.slots[int(seq)&(len(h.slots)-1)] }

// get makes p the packet of a number, in buf's memory.
func (h *history) get(seq uint16, kinds *extensionKinds, p *packet, buf *[maxPacket]byte) bool {
	h.mu.Lock()
	if h.slots == nil {
		h.mu.Unlock()
		return false
	}
	k := h.at(seq)
	if k == nil || k.seq != seq {
		h.mu.Unlock()
		return false
	}
	n := copy(buf[:], k.raw[:k.n])
	info := k.info
	h.mu.Unlock()
	ok := p.parse(buf[:n], kinds)
	p.info = info
	return ok
}

// parcel is a packet on its way to one subscriber: where it is kept, and as what this one is sent it.
type parcel struct {
	from   *layer
	as     *binding
	n      rewrite.Numbers
	src    uint16 // its number in from's history
	pt     uint8
	marker bool
	again  bool   // it was sent before
	number uint16 // and with this number for the transport; 0: not known
}

// sentPacket is a parcel that was sent, for whoever asks for it again: there is one for each packet of a second and subscriber, so it is small.
type sentPacket struct {
	from      *layer // nil: none was
	n         rewrite.Numbers
	at, asked millis
	src       uint16
	transport uint16
	pt        uint8
	marker    bool
}

// millis is a time in milliseconds since something began, for seven weeks; 0: never.
type millis uint32

// sentPackets keeps what a section has sent for historyFor, by its number there.
type sentPackets struct {
	slots []sentPacket // a power of two
	began time.Time
}

func (s *sentPackets) clock(now time.Time) millis {
	return millis(now.Sub(s.began)/time.Millisecond) + 1 //nolint:gosec // of a time in milliseconds
}

func (m millis) since(other millis) time.Duration {
	return time.Duration(int32(m-other)) * time.Millisecond
} //nolint:gosec // either may be later

// put notes a packet that leaves.
func (s *sentPackets) put(c *parcel, now time.Time) {
	if s.slots == nil {
		s.slots, s.began = make([]sentPacket, historyLeast), now
	}
	at := s.clock(now)
	for k := s.slot(c.n.Seq); k.from != nil && k.n.Seq != c.n.Seq && at.since(k.at) < historyFor && len(s.slots) < historyMost/2; k = s.slot(c.n.Seq) {
		grown := make([]sentPacket, 2*len(s.slots))
		for _, k := range s.slots {
			if k.from != nil {
				grown[int(k.n.Seq)&(len(grown)-1)] = k
			}
		}
		s.slots = grown
	}
	*s.slot(c.n.Seq) = sentPacket{from: c.from, n: c.n, at: at, src: c.src, pt: c.pt, marker: c.marker}
}

func (s *sentPackets) slot(seq uint16) *sentPacket { return &s.slots[int(seq)&(len(s.slots)-1)] }

// number notes what number for the transport a packet left with.
func (s *sentPackets) number(seq, number uint16) {
	if k := s.slot(seq); k.n.Seq == seq {
		k.transport = number
	}
}

// again gives a packet that is asked for, as it is to be sent, unless it was sent again within pause: a request that crossed the answer.
func (s *sentPackets) again(seq uint16, as *binding, now time.Time, pause time.Duration) (parcel, bool) {
	if s.slots == nil {
		return parcel{}, false
	}
	k, at := s.slot(seq), s.clock(now)
	if k.from == nil || k.n.Seq != seq || at.since(k.at) > 2*historyFor || k.asked != 0 && at.since(k.asked) < pause {
		return parcel{}, false
	}
	k.asked = at
	return parcel{from: k.from, as: as, n: k.n, src: k.src, pt: k.pt, marker: k.marker, again: true, number: k.transport}, true
}
