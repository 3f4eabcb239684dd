package sfu

import (
	"errors"
	"io"
)

// burstMost bounds how many packets of an encoding go to a subscriber at once.
const burstMost = 8

// burst is what had come of an encoding when its reader looked. Each subscriber is given all of it before the next one is: what belongs to a subscriber is spread over a
// few kilobytes, and with many of them it is fetched from memory every time.
type burst struct {
	packets []*packet
	held    []*incoming // theirs
	spare   []*incoming
}

// incoming is a packet with its memory.
type incoming struct {
	packet
	raw [maxPacket]byte
}

// next gives memory for another packet.
func (b *burst) next(l *layer) *incoming {
	last := len(b.spare) - 1
	if last < 0 {
		return &incoming{packet: packet{up: l.up, layer: l}}
	}
	in := b.spare[last]
	b.spare = b.spare[:last]
	return in
}

// runShort forwards what takes the short way, until the feed is closed.
func (l *layer) runShort() {
	var b burst
	for {
		in := b.next(l)
		n, err := l.feed.read(in.raw[:])
		if err != nil {
			return
		}
		l.taking.Lock()
		l.gather(&b, in, n)
		for len(b.packets) < burstMost && l.feed.Count() > 0 && err == nil {
			in := b.next(l)
			if n, err = l.feed.read(in.raw[:]); err == nil {
				l.gather(&b, in, n)
			}
		}
		l.release(&b)
		l.taking.Unlock()
	}
}

// read waits for a packet, and leaves giants out.
func (f *feed) read(b []byte) (int, error) {
	for {
		n, _, err := f.Read(b, nil)
		if !errors.Is(err, io.ErrShortBuffer) {
			return n, err
		}
	}
}

// gather adds a packet of n bytes. l.taking is held.
func (l *layer) gather(b *burst, in *incoming, n int) {
	p, raw := &in.packet, in.raw[:n]
	whole := p.parse(raw, &l.up.kinds)
	if whole && p.restructures() {
		l.release(b) // what they know of their frames is in the structure that goes
	}
	if !whole || !l.admit(p, raw, sourceOf(raw) != l.ssrc) {
		b.spare = append(b.spare, in)
		return
	}
	b.packets, b.held = append(b.packets, p), append(b.held, in)
}

// release forwards what was gathered. l.taking is held.
func (l *layer) release(b *burst) {
	if len(b.packets) > 0 {
		l.forward(b.packets...)
	}
	b.spare = append(b.spare, b.held...)
	b.packets, b.held = b.packets[:0], b.held[:0]
}
