package sfu

import (
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/datachannel"
)

// numberRests is how long the number of a channel that has ended is left alone: both sides have reset their streams by then (RFC 8831 section 6.7). pion never gives one out
// again by itself, and a browser takes no more than 1024.
const numberRests = time.Minute

// read has a data channel of the peer read by a goroutine of its own; got has what comes. The peer's loop calls ended when nothing will come any more. It is pion's callback of the opening.
func (p *peer) read(dc *webrtc.DataChannel, got func(webrtc.DataChannelMessage), ended func()) {
	raw, err := dc.Detach()
	if err != nil {
		p.log.Debug("a data channel cannot be read", "err", err)
		p.post(ended)
		return
	}
	p.post(func() { // here, as cleanUp waits for the readers
		p.readers.Go(func() {
			datachannel.Read(raw, func(data []byte, text bool) { got(webrtc.DataChannelMessage{Data: data, IsString: text}) })
			raw.Close() //nolint:errcheck // it has ended
			p.post(ended)
		})
	})
}

// channelNumbers are those of data channels that we have opened and that have ended, the oldest first.
type channelNumbers []restingNumber

type restingNumber struct {
	id    uint16
	since time.Time
}

// rest takes the number of a channel that has ended.
func (n *channelNumbers) rest(id *uint16, now time.Time) {
	if id != nil {
		*n = append(*n, restingNumber{*id, now})
	}
}

// take gives one for another channel; nil: none has rested for long enough, and pion is to find a new one.
func (n *channelNumbers) take(now time.Time) *uint16 {
	if len(*n) == 0 || now.Sub((*n)[0].since) < numberRests {
		return nil
	}
	id := (*n)[0].id
	*n = (*n)[1:]
	return &id
}

// copyOf makes the connection's channel for a copy of somebody's.
func (p *peer) copyOf(c *channel) (*webrtc.DataChannel, error) {
	init := c.init
	if init.ID = p.numbers.take(time.Now()); init.ID != nil {
		if dc, err := p.pc.CreateDataChannel(c.label, &init); err == nil {
			return dc, nil
		}
		init.ID = nil // its stream has not ended yet
	}
	return p.pc.CreateDataChannel(c.label, &init)
}
