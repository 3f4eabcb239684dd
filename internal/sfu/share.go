package sfu

import (
	"slices"
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/sfu/allot"
)

// guess is what an encoding that has not sent for a second yet is taken to need, bits a second, by how many larger ones there are.
var guess = [maxLayers]int{1_500_000, 500_000, 150_000}

// shareOut fits what the peer is sent into what its path carries. It is called every second, and when the estimate has changed.
func (p *peer) shareOut(now time.Time) {
	var wants []*want
	var tracks []allot.Track
	widest := 0
	for _, w := range p.wants {
		if w.down == nil || w.paused || w.held || w.down.state != slotActive {
			continue
		}
		wants, widest = append(wants, w), max(widest, w.width)
		tracks = append(tracks, p.demand(w, now))
	}
	for i, w := range wants { // what is shown large is looked at, where the client says so
		tracks[i].Focus = w.width > 0 && w.width == widest && slices.ContainsFunc(wants, func(o *want) bool { return o.width > 0 && o.width < widest })
	}
	target, scarce := p.out.tell(allot.Wanted(tracks)+beyond(wants, tracks), now)
	choices := p.allot.Decide(now, target, tracks)
	p.limited = false
	left, single := target, 0
	for i, c := range choices {
		w, t := wants[i], tracks[i]
		n := c.Layer
		if n == allot.None && !scarce && len(t.Layers) > 0 {
			n = 0 // nothing says that there is no room
		}
		switch {
		case w.up.kind == webrtc.RTPCodecTypeVideo && w.up.single():
			single++
		case n >= 0:
			left -= t.Layers[n].Bitrate
		}
		if w.up.kind == webrtc.RTPCodecTypeVideo {
			p.limited = p.limited || scarce && n < len(t.Layers)-1
			w.down.starve(n == allot.None && len(t.Layers) > 0)
			if n >= 0 {
				w.down.target(t.Layers[n].Spatial, t.Layers[n].Temporal)
			}
		}
	}
	for _, w := range p.wants {
		if w.down == nil {
			continue
		}
		room := 0
		switch {
		case w.paused || w.held:
			room = -1
		case scarce && w.up.single():
			room = max(left*(100-roomBeside)/100/single, 1)
			p.limited = p.limited || room < int(w.up.free.Load())
		}
		w.down.offer(room)
	}
}

// roomBeside is what part of the room for a picture of one quality is left free, in percent: an encoder does not keep to a rate exactly.
const roomBeside = 15

// beyond is how much more the pictures would need that have been made smaller at their source, bits a second.
func beyond(wants []*want, tracks []allot.Track) (sum int) {
	for i, w := range wants {
		if n := len(tracks[i].Layers); n > 0 && w.up.single() {
			sum += max(int(w.up.free.Load())*112/100-tracks[i].Layers[n-1].Bitrate*112/100, 0)
		}
	}
	return sum
}

// demand is what could be sent of a subscription, the least first.
func (p *peer) demand(w *want, now time.Time) allot.Track {
	t := allot.Track{ID: string(w.up.id), Kind: allot.Camera, Priority: w.priority}
	if info := p.tracks[w.up.id]; info != nil && info.info.Source == "screen" {
		t.Kind = allot.Screen
	}
	if w.up.kind != webrtc.RTPCodecTypeVideo {
		t.Kind = allot.Audio
	}
	if w.up.silenced.Load() || w.up.muted.Load() {
		return t // nothing is sent of it
	}
	t.Layers = w.up.offers(limits{width: w.width, fps: w.fps, spatial: -1, temporal: -1}, now)
	return t
}

// offers lists the layers of u within lim that are sent at the moment, the least first, each with all it needs.
func (u *up) offers(lim limits, now time.Time) (list []allot.Layer) {
	layers := *u.layers.Load()
	if len(layers) == 0 {
		return nil
	}
	most := u.choose(layers, lim, now)
	for n, l := range layers[:most.encoding+1] {
		if len(layers) > 1 && !l.active(layers, now) {
			continue
		}
		rates, known := l.bitrates()
		if !known {
			rates[0][0] = uint64(guess[min(len(layers)-1-n, maxLayers-1)])
		}
		if len(layers) > 1 {
			top := int(l.top.Load())
			if n == most.encoding {
				top = int(most.temporal)
			}
			smaller := len(list)
			list = cumulate(list, n, rates, int(l.spatial.Load()), top, false)
			if smaller > 0 && len(list) > smaller { // a smaller picture that moves is better than a larger one that does not
				list = append(list[:smaller], list[len(list)-1])
			}
			continue
		}
		return cumulate(list, 0, rates, int(most.spatial), int(most.temporal), true)
	}
	return list
}

// cumulate adds the temporal layers of one encoding, or, where inside, of each spatial layer in it.
func cumulate(list []allot.Layer, encoding int, rates [maxLayers][maxTemporal]uint64, spatial, temporal int, inside bool) []allot.Layer {
	if !inside {
		sum := 0
		for t := range min(temporal, maxTemporal-1) + 1 {
			for s := range rates {
				sum += int(rates[s][t])
			}
			list = append(list, allot.Layer{Spatial: encoding, Temporal: t, Bitrate: sum})
		}
		return list
	}
	for s := range min(spatial, maxLayers-1) + 1 {
		for t := range min(temporal, maxTemporal-1) + 1 {
			sum := 0
			for i := range s + 1 {
				for k := range t + 1 {
					sum += int(rates[i][k])
				}
			}
			list = append(list, allot.Layer{Spatial: s, Temporal: t, Bitrate: sum})
		}
	}
	return list
}
