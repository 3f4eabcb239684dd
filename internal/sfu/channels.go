package sfu

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/pion/webrtc/v4"
)

// pion reads each data channel into 64 KiB of its own, and holds every channel that a connection ever had, with all that its callbacks know, until the connection ends; a number that one has had it
// never gives out again, and a browser takes no more than 1024. So channels are detached: they are read here, and their numbers are used again.

const (
	// dataBuffer is what a channel is read into, in bytes; a message that is larger has memory of its own. In a room where everybody writes there is one for each pair of peers.
	dataBuffer = 512
	// largestRead is the largest message that is read at all, to be refused: SCTP's window is 1 MiB.
	largestRead = 2 << 20
	// numberRests is how long the number of a channel that has ended is left alone: both sides have reset their streams by then (RFC 8831 section 6.7).
	numberRests = 2 * time.Second
)

// dataReader is a detached data channel.
type dataReader interface {
	ReadDataChannel(b []byte) (n int, isString bool, err error)
}

// readChannel gives what comes on a data channel until it ends.
func readChannel(dc dataReader, got func(webrtc.DataChannelMessage)) {
	var small [dataBuffer]byte
	buf := small[:]
	for {
		n, isString, err := dc.ReadDataChannel(buf)
		switch {
		case errors.Is(err, io.ErrShortBuffer) && len(buf) < largestRead:
			buf = make([]byte, 8*len(buf)) // it is still there
			continue
		case err != nil:
			return
		}
		m := webrtc.DataChannelMessage{Data: buf[:n], IsString: isString}
		if n < len(buf)/2 || len(buf) == dataBuffer {
			m.Data = bytes.Clone(m.Data)
		}
		got(m)
		buf = small[:]
	}
}

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
			readChannel(raw, got)
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
		init.ID = nil // the client has not reset its stream yet
	}
	return p.pc.CreateDataChannel(c.label, &init)
}
