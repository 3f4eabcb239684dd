package sfu

import (
	"slices"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
)

const (
	// ceilingLeast is the least a publisher of one encoding is asked to come down to: pictures of less are none.
	ceilingLeast = 80_000
	// ceilingEvery is how often a publisher is told at most that its ceiling has changed.
	ceilingEvery = 250 * time.Millisecond
	// ceilingNone is what a publisher is told that may send what it likes.
	ceilingNone = 100_000_000
	// liftedTimes is how often it is told that, in case a message is lost.
	liftedTimes = 3
)

// ceiling is what a publisher was asked to stay below because nobody can be sent more: where there is one encoding, all that an SFU can
// do is to have it made smaller at its source. The peer's loop owns it.
type ceiling struct {
	bps    int // 0: none
	told   time.Time
	lifted int // how often it still has to be told that there is none
}

// ceilingOf gives the least that is enough for everybody who is sent u, bits a second; 0: as much as it likes.
func (u *up) ceilingOf() int {
	most := 0
	for _, d := range *u.subs.Load() {
		room := int(d.room.Load())
		if room == 0 {
			return 0
		}
		most = max(most, room) // one that is paused has no room, and says so with less than nothing
	}
	return max(most, 0)
}

// single reports whether u has one picture to send, of one quality.
func (u *up) single() bool {
	layers := *u.layers.Load()
	return u.kind == webrtc.RTPCodecTypeVideo && len(u.rids) < 2 && len(layers) == 1 && layers[0].spatial.Load() == 0
}

// bitrate is what u sent over the last second, with all its layers.
func (u *up) bitrate() (sum int) {
	for _, l := range *u.layers.Load() {
		rates, _ := l.bitrates()
		for s := range rates {
			for _, bps := range rates[s] {
				sum += int(bps)
			}
		}
	}
	return sum
}

// lower tells the client what to stay below, when that has changed: as much as the best access takes of those that are sent its pictures. It goes for
// everything the client sends together (REMB, draft-alvestrand-rmcat-remb-03), so it is told only where every picture has one.
func (p *peer) lower(now time.Time) {
	sum, ssrcs := 0, []uint32(nil)
	capped := false
	var send func([]rtcp.Packet)
	for _, u := range p.ups {
		send = u.sendRTCP
		for _, l := range *u.layers.Load() {
			ssrcs = append(ssrcs, l.ssrc)
		}
		if u.kind != webrtc.RTPCodecTypeVideo {
			sum += u.bitrate()
			continue
		}
		c := 0
		if u.single() {
			c = u.ceilingOf()
		}
		if c == 0 {
			capped = false
			break
		}
		sum, capped = sum+max(c, ceilingLeast), true
	}
	for _, u := range p.ups {
		if !capped && p.ceiling.bps == 0 {
			u.free.Store(int64(u.bitrate()))
		}
	}
	if !capped {
		sum = 0
	}
	if bps, due := p.ceiling.next(sum, now); due && send != nil {
		slices.Sort(ssrcs)
		send([]rtcp.Packet{&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: float32(bps), SSRCs: ssrcs}})
	}
}

// next takes what the ceiling is to be, 0 for none, and says what to tell of it now.
func (c *ceiling) next(bps int, now time.Time) (tell int, send bool) {
	if c.bps != 0 && bps == 0 {
		c.lifted = liftedTimes
	}
	changed := bps != c.bps
	if !changed && bps == 0 && c.lifted == 0 || now.Sub(c.told) < ceilingEvery {
		if changed && bps == 0 { // it is told next time
			c.bps = 0
		}
		return 0, false
	}
	c.bps, c.told = bps, now
	if bps == 0 {
		c.lifted--
		return ceilingNone, c.lifted >= 0
	}
	return bps, true
}
