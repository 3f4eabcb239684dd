package sfu

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/sctp"
	"github.com/pion/webrtc/v4"
	"golang.org/x/time/rate"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

const (
	// maxChannels is how many data channels one peer may have open at once.
	maxChannels = 32
	// maxBuffered is how much a reliable copy may have waiting, in bytes, before it is closed: a
	// receiver this far behind would only fall further.
	maxBuffered = 2 << 20
	// maxBufferedLossy is the same for a lossy copy, whose messages are dropped beyond it: what is
	// late by more than this was not worth sending.
	maxBufferedLossy = 128 << 10
	// maxBufferedPeer bounds in bytes what waits for one receiver on all its copies, those included that
	// were closed: pion closes a channel after what was written to it. It is looked at once a second, not for each message:
	// pion's lock on it is held for 200 ms while a receiver leaves, and a sender would wait.
	maxBufferedPeer = 8 << 20
	// dataMessages and dataBytes are what one peer may send in a second on all its channels
	// together, and twice that at once.
	dataMessages = 1000
	dataBytes    = 4 << 20
	// maxNamed is how many receivers a channel may name.
	maxNamed = 64
	// namesReceivers begins the protocol of a channel that is not for everybody.
	namesReceivers = "to:"
)

// dataAllowance is what a peer may still send on its data channels.
type dataAllowance struct{ messages, bytes, refusals, oversize *rate.Limiter }

func newDataAllowance() dataAllowance {
	return dataAllowance{
		messages: rate.NewLimiter(dataMessages, 2*dataMessages), bytes: rate.NewLimiter(dataBytes, 2*dataBytes),
		refusals: rate.NewLimiter(1, 1), oversize: rate.NewLimiter(1, 1),
	}
}

// admit says whether a message of n bytes may be forwarded. The sender hears of what may not, once
// a second at most for each reason. It is called by the channels' readers.
//
// The description says how large a message may be, and browsers and pion refuse what is larger; but pion reads any size, and
// who ignores the description would have the copies closed at all whose own limit it exceeds.
func (p *peer) admit(n int, now time.Time) bool {
	if n > signal.MaxDataMessage {
		if p.sends.oversize.AllowN(now, 1) {
			p.post(func() { p.refuse(signal.CodeLimited, "a data message is at most 64 KiB: it was dropped") })
		}
		return false
	}
	if p.sends.messages.AllowN(now, 1) && p.sends.bytes.AllowN(now, n) {
		return true
	}
	if p.sends.refusals.AllowN(now, 1) {
		p.post(func() { p.refuse(signal.CodeLimited, "data is sent too fast: messages were dropped") })
	}
	return false
}

// receivers reads the protocol that a client gave its channel: "to:" and peer ids between commas.
// Every other protocol means everybody, which is nil.
func receivers(protocol string) (to []orama.PeerID, ok bool) {
	list, named := strings.CutPrefix(protocol, namesReceivers)
	if !named {
		return nil, true
	}
	if strings.Count(list, ",") >= maxNamed {
		return nil, false
	}
	for id := range strings.SplitSeq(list, ",") {
		if id == "" {
			return nil, false
		}
		to = append(to, orama.PeerID(id))
	}
	return to, true
}

// channel is a data channel that a peer opened, and its copies at the other peers.
type channel struct {
	owner orama.PeerID
	label string
	init  webrtc.DataChannelInit // of the copies
	lossy bool
	to    []orama.PeerID // nil for everybody

	mu      sync.Mutex
	known   bool                        // guarded by mu, as all below; the room has made the copies
	early   []webrtc.DataChannelMessage // what came before that
	copies  []*dataCopy
	bytes   int // of early
	dropped func()
}

func newChannel(owner orama.PeerID, dc *webrtc.DataChannel, dropped func()) *channel {
	ordered, protocol := dc.Ordered(), string(owner)
	return &channel{
		owner: owner, label: dc.Label(), dropped: dropped,
		lossy: dc.MaxRetransmits() != nil || dc.MaxPacketLifeTime() != nil,
		init: webrtc.DataChannelInit{
			Ordered: &ordered, MaxRetransmits: dc.MaxRetransmits(), MaxPacketLifeTime: dc.MaxPacketLifeTime(), Protocol: &protocol,
		},
	}
}

// reaches says whether p gets a copy. Called by the loop of their room.
func (c *channel) reaches(p *peer) bool {
	return p.id != c.owner && p.granted.Data && (c.to == nil || slices.Contains(c.to, p.id))
}

// forward sends a message to every copy. It is called by the channel's reader.
func (c *channel) forward(m webrtc.DataChannelMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		if c.bytes += len(m.Data); c.bytes <= maxBuffered {
			c.early = append(c.early, m)
		}
		return
	}
	for _, copied := range c.copies {
		copied.send(m)
	}
}

// add makes an empty copy that receives every message from now on.
func (c *channel) add() *dataCopy {
	c.mu.Lock()
	defer c.mu.Unlock()
	copied := &dataCopy{of: c}
	c.copies = append(c.copies, copied)
	return copied
}

// start lets messages through, after the first copies were added.
func (c *channel) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = true
	for _, m := range c.early {
		for _, copied := range c.copies {
			copied.send(m)
		}
	}
	c.early = nil
}

func (c *channel) remove(copied *dataCopy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copies = slices.DeleteFunc(c.copies, func(x *dataCopy) bool { return x == copied })
}

// dataCopy is a channel at one receiver.
type dataCopy struct {
	of *channel

	mu      sync.Mutex
	dc      *webrtc.DataChannel // guarded by mu, as all below; nil until the receiver's loop made it
	behind  *atomic.Int64       // bytes that waited for the receiver on all its channels a moment ago; nil until then
	open    bool
	closed  bool
	waiting []webrtc.DataChannelMessage // until it is open
	bytes   int                         // of waiting
}

// send never waits: what the receiver cannot take is dropped, or ends the copy.
func (d *dataCopy) send(m webrtc.DataChannelMessage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	buffered := d.bytes
	if d.open {
		buffered = int(d.dc.BufferedAmount())
	}
	full := len(d.waiting) > maxPosted || d.behind != nil && d.behind.Load()+int64(len(m.Data)) > maxBufferedPeer
	switch {
	case d.of.lossy && (full || buffered+len(m.Data) > maxBufferedLossy):
		d.of.dropped()
	case full || buffered+len(m.Data) > maxBuffered:
		d.closeLocked()
	case d.open:
		d.writeLocked(m)
	default:
		d.waiting, d.bytes = append(d.waiting, m), d.bytes+len(m.Data)
	}
}

func (d *dataCopy) writeLocked(m webrtc.DataChannelMessage) {
	var err error
	if m.IsString {
		err = d.dc.SendText(string(m.Data))
	} else {
		err = d.dc.Send(m.Data)
	}
	switch {
	case errors.Is(err, sctp.ErrOutboundPacketTooLarge): // for this receiver, which said so in its description
		d.of.dropped()
	case err != nil:
		d.closeLocked()
	}
}

// opened sends what waited.
func (d *dataCopy) opened() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed { // while it was being opened
		d.dc.Close() //nolint:errcheck // it is going either way
		return
	}
	d.open = true
	for _, m := range d.waiting {
		if !d.closed {
			d.writeLocked(m)
		}
	}
	d.waiting, d.bytes = nil, 0
}

// use gives the copy its channel, and shows it how far behind its receiver is.
func (d *dataCopy) use(dc *webrtc.DataChannel, behind *atomic.Int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dc, d.behind = dc, behind
}

// over reports whether the copy has ended.
func (d *dataCopy) over() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *dataCopy) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closeLocked()
}

func (d *dataCopy) closeLocked() {
	if d.closed {
		return
	}
	d.closed, d.waiting = true, nil
	if d.open { // else opened does it: pion says nothing of a channel that is closed before
		d.dc.Close() //nolint:errcheck // it is going either way
	}
}
