package sfu

import (
	"slices"
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// trackArrived is the first packet of a track that the client sends.
func (p *peer) trackArrived(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
	rep := &reports{}
	p.readers.Go(func() { readReceiverRTCP(r, t.RID(), func(b []byte) { rep.take(uint32(t.SSRC()), b, time.Now()) }) })
	p.take(t, r, rep)
}

// take publishes what arrived, or adds it to the track that it is another encoding of.
func (p *peer) take(t *webrtc.TrackRemote, r *webrtc.RTPReceiver, rep *reports) {
	if u := p.upOf(r, t.Codec()); t.RID() != "" && u != nil {
		if !p.addLayer(u, t, r, rep) {
			p.drain(t)
		}
		return
	}
	if why, code := p.mayPublish(t, r); code != "" {
		p.refuse(code, why)
		if code == signal.CodeForbidden && t.RID() == "" {
			p.bar(t, r, rep)
		} else {
			p.drain(t)
		}
		return
	}
	p.publish(t, r, rep)
}

func (p *peer) drain(t *webrtc.TrackRemote) {
	p.reading[t] = ""
	p.readers.Go(func() {
		drain(t)
		p.post(func() { delete(p.reading, t) })
	})
}

// wake makes the readers of a section return, or all of them when mid is "". pion closes their
// streams, but a reader may not notice: packets that came before the answer are probed by a reader
// of pion's own, on the same stream, and that one may take the notice away.
func (p *peer) wake(mid string) {
	for t, m := range p.reading {
		if mid == "" || m == mid {
			t.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a stream that is gone needs no waking
		}
	}
}

func (p *peer) mayPublish(t *webrtc.TrackRemote, r *webrtc.RTPReceiver) (why, code string) {
	switch {
	case !p.rights.Publish:
		return "the token does not allow publishing", signal.CodeForbidden
	case len(p.ups) >= maxTracks:
		return "too many tracks", signal.CodeLimited
	case r.RTPTransceiver() == nil:
		return "the track's section is gone", signal.CodeBadSDP
	}
	return "", ""
}

// drain reads what nobody wants, so that pion's buffers stay empty.
func drain(t *webrtc.TrackRemote) {
	buf := make([]byte, maxPacket)
	for {
		if _, _, err := t.Read(buf); err != nil {
			release(t)
			return
		}
	}
}

// release lets go whoever else reads a stream that has ended for us: pion's own prober of packets that came before the answer waits
// on it for ever when our reader took the notice of the end.
func release(t *webrtc.TrackRemote) {
	t.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a stream that is gone holds nobody
}

// upOf finds the living track of a section that has a codec.
func (p *peer) upOf(r *webrtc.RTPReceiver, c webrtc.RTPCodecParameters) *up {
	tr := r.RTPTransceiver()
	if tr == nil {
		return nil
	}
	for _, u := range p.ups {
		if u.mid == tr.Mid() && u.sameCodec(c) && !u.over() {
			return u
		}
	}
	return nil
}

// publish makes a track of its first encoding and tells the room.
func (p *peer) publish(t *webrtc.TrackRemote, r *webrtc.RTPReceiver, rep *reports) {
	u := newUp(orama.TrackID(newID("t_")), p.id, t, r, p.srv.metrics)
	u.sendRTCP = p.writeReports
	u.rtt = func() time.Duration { return time.Duration(p.out.rtt.Load()) }
	u.asks.changed = func() { p.post(func() { p.tellWanted(time.Now()) }) }
	u.roomChanged = func() { p.post(func() { p.lower(time.Now()) }) }
	info := p.describe(u)
	for _, other := range r.Tracks() {
		if other.RID() != "" && len(info.Layers) < maxLayers {
			info.Layers = append(info.Layers, signal.Layer{RID: other.RID()})
		}
	}
	u.rids = []string{t.RID()}
	if len(info.Layers) > 0 {
		u.rids = nil
		for _, l := range info.Layers {
			u.rids = append(u.rids, l.RID)
		}
	}
	u.muted.Store(info.Muted)
	p.ups[u.id] = u
	p.room.inbox.post(func() { p.room.publish(p, u, info) })
	p.addLayer(u, t, r, rep)
}

// addLayer starts the reader of an encoding.
func (p *peer) addLayer(u *up, t *webrtc.TrackRemote, r *webrtc.RTPReceiver, rep *reports) bool {
	order := slices.IndexFunc(r.Tracks(), func(other *webrtc.TrackRemote) bool { return other.RID() == t.RID() })
	p.taps.meet(uint32(t.SSRC())) // pion has, before it made the track
	l := u.add(t, order, rep, p.taps.stream(uint32(t.SSRC())))
	if l == nil {
		return false
	}
	l.streamOf, l.repeats = p.taps.stream, repeats(r.GetParameters().Codecs)
	p.reading[t] = u.mid
	p.readers.Go(func() {
		why := l.run()
		if why == endGone {
			release(l.track)
		}
		last := u.remove(l)
		if last {
			u.end()
		}
		p.post(func() { p.layerEnded(u, l, last, why, r) })
	})
	return true
}

// layerEnded takes a track back with its last encoding; one whose codec changed is published anew, because its
// subscribers have to negotiate that.
func (p *peer) layerEnded(u *up, l *layer, last bool, why endOfUp, r *webrtc.RTPReceiver) {
	delete(p.reading, l.track)
	taken := p.taken[u]
	if last {
		delete(p.ups, u.id)
		delete(p.taken, u)
		p.tellWanted(time.Now()) // its section may be used again
		p.room.inbox.post(func() { p.room.unpublish(u) })
	}
	switch {
	case p.stopped:
	case taken:
		p.readAgain(l.track, r, l.reports)
	case why == endCodec:
		p.take(l.track, r, l.reports)
	}
}

// describe names a new track: by what the client said of its section, or by the protocol's defaults.
func (p *peer) describe(u *up) signal.Track {
	ref := p.refs[u.mid]
	t := signal.Track{
		TrackID: u.id, Kind: u.kind.String(), Source: ref.Source, Name: ref.Name, Muted: ref.Muted, Layers: []signal.Layer{},
	}
	if t.Source != "" {
		return t
	}
	t.Source = "microphone"
	if u.kind == webrtc.RTPCodecTypeVideo {
		t.Source = "camera"
		for _, other := range p.ups {
			if other.kind == webrtc.RTPCodecTypeVideo {
				t.Source = "screen"
			}
		}
	}
	return t
}

// channelArrived is pion's callback for a data channel that the client opened; no message of it
// is read before this returns.
func (p *peer) channelArrived(dc *webrtc.DataChannel) {
	metrics := p.srv.metrics // and not the peer, as its copies know this
	c := newChannel(p.id, dc, func() { metrics.dataDropped.Add(1) })
	var named bool
	c.to, named = receivers(dc.Protocol())
	over := false
	ended := func() {
		if over {
			return
		}
		over = true
		p.opened--
		delete(p.channels, dc)
		p.room.inbox.post(func() { p.room.closeChannel(c) })
	}
	dc.OnOpen(func() {
		p.read(dc, func(m webrtc.DataChannelMessage) {
			if p.admit(len(m.Data), time.Now()) {
				c.forward(m)
			}
		}, ended)
	})
	dc.OnClose(func() { p.post(ended) }) // refused before it was open
	p.post(func() {
		p.opened++
		why, code := "", ""
		switch {
		case !p.rights.Data:
			why, code = "the token does not allow data", signal.CodeForbidden
		case p.opened > maxChannels:
			why, code = "too many data channels", signal.CodeLimited
		case !named:
			why, code = "a data channel names one to 64 receivers", signal.CodeInvalid
		}
		if code != "" {
			p.refuse(code, why)
			c.start()  // nothing of it is kept for copies
			dc.Close() //nolint:errcheck // it is refused either way
			return
		}
		p.channels[dc] = c
		p.room.inbox.post(func() { p.room.openChannel(p, c) })
	})
}

// addCopy opens this peer's copy of somebody's channel.
func (p *peer) addCopy(copied *dataCopy) {
	if p.pc == nil || copied.over() {
		return
	}
	dc, err := p.copyOf(copied.of)
	if err != nil {
		copied.close()
		copied.of.remove(copied)
		p.log.Debug("no copy of a data channel", "err", err)
		return
	}
	copied.use(dc, &p.behind)
	p.copies[copied] = struct{}{}
	ended := func() {
		copied.close()
		copied.of.remove(copied)
		delete(p.copies, copied)
	}
	dc.OnOpen(func() {
		p.read(dc, func(webrtc.DataChannelMessage) {}, func() {
			ended()
			p.numbers.rest(dc.ID(), time.Now())
		})
		copied.opened()
	})
	dc.OnClose(func() { p.post(ended) }) // before it was open
	if p.neg.noData {
		p.negotiate()
	}
}
