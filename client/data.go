package client

import (
	"context"
	"sync"

	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/datachannel"
	"orama.network/orama/internal/signal"
)

// maxBuffered bounds what a data channel holds back before Send refuses, in bytes.
const maxBuffered = 4 << 20

// DataOptions are those of a data channel (RFC 8832). The zero value is reliable and ordered.
type DataOptions struct {
	Unordered      bool
	MaxRetransmits *uint16 // at most one of these two; both nil: reliable
	MaxLifetimeMS  *uint16 // milliseconds
}

// DataMessage is a message of another peer.
type DataMessage struct {
	From  orama.PeerID
	Label string // of the channel it was sent on
	Data  []byte
	Text  bool // sent as text
}

// DataChannel is a channel whose messages the SFU forwards to every other peer of the room.
// It is opened again after a recovery that needed a new connection.
type DataChannel struct {
	room  *Room
	label string
	opts  DataOptions

	mu   sync.Mutex
	dc   *webrtc.DataChannel // guarded by mu; nil while there is no connection
	open chan struct{}       // guarded by mu; closed while dc is open, replaced with dc
}

// Label is the channel's name.
func (d *DataChannel) Label() string { return d.label }

// Send sends bytes, SendText text: at most 64 KiB. Without an open channel the error is of
// KindUnavailable, with too much waiting to be sent of KindLimited.
func (d *DataChannel) Send(p []byte) error {
	dc, err := d.ready(len(p))
	if err != nil {
		return err
	}
	return dc.Send(p)
}

// SendText is Send for text.
func (d *DataChannel) SendText(s string) error {
	dc, err := d.ready(len(s))
	if err != nil {
		return err
	}
	return dc.SendText(s)
}

func (d *DataChannel) ready(size int) (*webrtc.DataChannel, error) {
	if size > signal.MaxDataMessage {
		return nil, orama.Errorf(orama.KindInvalid, "too_large", "a data message is at most 64 KiB")
	}
	d.mu.Lock()
	dc := d.dc
	d.mu.Unlock()
	if dc == nil || dc.ReadyState() != webrtc.DataChannelStateOpen {
		return nil, orama.Errorf(orama.KindUnavailable, "not_open", "the data channel is not open now")
	}
	if dc.BufferedAmount() > maxBuffered {
		return nil, orama.Errorf(orama.KindLimited, "buffered", "too much waits to be sent on the data channel")
	}
	return dc, nil
}

// WaitOpen returns when the channel can be sent on.
func (d *DataChannel) WaitOpen(ctx context.Context) error {
	for {
		d.mu.Lock()
		dc, open := d.dc, d.open
		d.mu.Unlock()
		if dc != nil && dc.ReadyState() == webrtc.DataChannelStateOpen {
			return nil
		}
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		case <-d.room.done:
			return d.room.closedError()
		}
	}
}

// Close closes the channel for everybody.
func (d *DataChannel) Close(ctx context.Context) error {
	return d.room.do(ctx, func() { d.room.closeData(d) })
}

// attach opens the channel on a connection. Called by the loop.
func (d *DataChannel) attach(pc *webrtc.PeerConnection) error {
	ordered := !d.opts.Unordered
	dc, err := pc.CreateDataChannel(d.label, &webrtc.DataChannelInit{
		Ordered: &ordered, MaxRetransmits: d.opts.MaxRetransmits, MaxPacketLifeTime: d.opts.MaxLifetimeMS,
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wakeLocked(d.open) // whoever waited for the channel before this one looks again
	d.dc, d.open = dc, make(chan struct{})
	open := d.open
	dc.OnOpen(func() {
		d.wake(open)
		hear(dc, func([]byte, bool) {}) // what the SFU sends on it is its answer and its end
	})
	return nil
}

// hear reads a channel that has been opened, and closes it when the other side has. pion calls it by OnOpen, in a goroutine of its own.
func hear(dc *webrtc.DataChannel, got func(data []byte, text bool)) {
	raw, err := dc.Detach()
	if err != nil {
		return // closed meanwhile
	}
	datachannel.Read(raw, got)
	dc.Close() //nolint:errcheck // it has ended
}

func (d *DataChannel) wake(c chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wakeLocked(c)
}

// wakeLocked closes a channel unless it is.
func (d *DataChannel) wakeLocked(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// detach forgets a connection that is gone. Called by the loop.
func (d *DataChannel) detach() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dc = nil
}

// listen takes the SFU's copy of another peer's channel.
func (r *Room) listen(dc *webrtc.DataChannel) {
	from, label := orama.PeerID(dc.Protocol()), dc.Label()
	dc.OnOpen(func() {
		hear(dc, func(data []byte, text bool) {
			if r.opts.OnData != nil && from != "" {
				r.opts.OnData(DataMessage{From: from, Label: label, Data: data, Text: text})
			}
		})
	})
}
