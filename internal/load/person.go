package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"

	"orama.network/orama"
	"orama.network/orama/client"
)

// person is one who publishes, or one who watches.
type person struct {
	run       *run
	i         int
	publishes bool
	room, url string

	has     atomic.Bool // media, at least once
	asked   time.Duration
	first   chan struct{} // closed with the first packet of a watched track
	once    sync.Once
	sent    [2]atomic.Uint64 // packets, by kind
	out     [2]atomic.Uint64 // bytes of payload
	again   atomic.Int64     // recoveries
	playing context.CancelFunc
	wg      sync.WaitGroup
	client  *client.Room
	id      atomic.Pointer[orama.PeerID] // as of the join

	mu      sync.Mutex
	meters  [2][]*meter // guarded by mu; by kind
	quality string      // guarded by mu; as the SFU last said

	estimate atomic.Int64 // of the way down, bits a second, as the SFU last said; 0: it has not
}

// Kinds of tracks, as indices.
const (
	audio = iota
	video
)

// clipEvery and toneEvery are what the sources have between two frames.
const (
	clipEvery = 50 * time.Millisecond
	toneEvery = 20 * time.Millisecond
	packetMTU = 1200
	clockRate = 90000
)

// join returns when there is media: sent to a relay, or received.
func (p *person) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	cred, err := p.run.Credential(ctx, p.i)
	if err != nil {
		return err
	}
	watch := !p.publishes
	p.first = make(chan struct{})
	o := client.Options{Room: p.room, Token: cred.Token, APIKey: cred.APIKey, Name: fmt.Sprintf("load %d", p.i+1), AutoSubscribe: &watch,
		Transports: p.run.Transports, HTTPClient: p.run.http, TLSConfig: p.run.TLS, OnTrack: p.watch, OnEvent: p.event}
	p.asked = now()
	for p.client == nil {
		var e *orama.Error
		switch p.client, err = client.Join(ctx, p.url, o); {
		case err == nil:
		case errors.As(err, &e) && e.Kind == orama.KindLimited && e.RetryAfter > 0 && pause(ctx, e.RetryAfter):
			p.asked = now() // what waiting for the gateway's leave takes is no join's time
		default:
			p.client = nil
			return err
		}
	}
	id := p.client.PeerID()
	p.id.Store(&id)
	if err := p.client.WaitState(ctx, client.StateConnected); err != nil {
		return p.unjoined(ctx, err, "joined, but no relay let media through")
	}
	if p.publishes {
		if err := p.publish(ctx); err != nil {
			return p.unjoined(ctx, err, "joined, but could not publish")
		}
		p.has.Store(true)
		return nil
	}
	select {
	case <-p.first:
		return nil
	case <-p.client.Done():
		return p.client.Err()
	case <-ctx.Done():
	case <-time.After(mediaWithin):
	}
	return p.unjoined(ctx, context.DeadlineExceeded, "joined, but no media arrived")
}

// unjoined words a failure after the join for people: a deadline says nothing to them.
func (p *person) unjoined(ctx context.Context, err error, text string) error {
	if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return orama.Errorf(orama.KindUnavailable, "no_media", "%s within %s", text, joinWithin)
	}
	return err
}

func (p *person) publish(ctx context.Context) error {
	playing, cancel := context.WithCancel(context.Background())
	p.playing = cancel
	if p.run.Audio {
		t, err := p.client.Publish(ctx, client.TrackOptions{Kind: "audio"})
		if err != nil {
			return err
		}
		p.wg.Go(func() { p.play(playing, t.KeyframeRequests(), toneFrames(), toneEvery, p.tone(t)) })
	}
	switch p.run.Video {
	case Single:
		t, err := p.client.Publish(ctx, client.TrackOptions{Kind: "video"})
		if err != nil {
			return err
		}
		p.wg.Go(func() { p.play(playing, t.KeyframeRequests(), clipFrames(p.run.Bitrate), clipEvery, p.clip(t)) })
	case Simulcast:
		o := client.TrackOptions{Kind: "video"}
		for _, e := range encodings {
			o.Layers = append(o.Layers, e.rid)
		}
		t, err := p.client.Publish(ctx, o)
		if err != nil {
			return err
		}
		for _, e := range encodings {
			l, frames := t.Layer(e.rid), clipFrames(max(p.run.Bitrate/e.share, LowestBitrate()))
			p.wg.Go(func() { p.play(playing, l.KeyframeRequests(), frames, clipEvery, p.clip(l)) })
		}
	case NoVideo:
	}
	return nil
}

// encodings of simulcast, the smallest first, with what the largest one's bitrate is divided by: as a browser's 320, 640 and 1280 pixels.
var encodings = []struct {
	rid   string
	share int
}{{"q", 10}, {"h", 4}, {"f", 1}}

// tone sends a frame of sound, clip one of video: as packets, so that they can be counted.
func (p *person) tone(t *client.LocalTrack) func(client.Sample) error {
	return func(s client.Sample) error {
		p.sent[audio].Add(1)
		p.out[audio].Add(uint64(len(s.Data)))
		return t.WriteSample(s)
	}
}

func (p *person) clip(t interface{ WriteRTP(*rtp.Packet) error }) func(client.Sample) error {
	packets := rtp.NewPacketizer(packetMTU, 0, 0, &codecs.VP8Payloader{EnablePictureID: true}, rtp.NewRandomSequencer(), clockRate)
	return func(s client.Sample) error {
		for _, one := range packets.Packetize(s.Data, uint32(s.Duration.Seconds()*clockRate)) {
			p.sent[video].Add(1)
			p.out[video].Add(uint64(len(one.Payload)))
			if err := t.WriteRTP(one); err != nil {
				return err
			}
		}
		return nil
	}
}

// play sends frames until ctx ends, from the first again when a keyframe is asked for. Publishers are spread over the time
// between two frames, as people are.
func (p *person) play(ctx context.Context, keyframes <-chan struct{}, frames []client.Sample, every time.Duration, send func(client.Sample) error) {
	next := now() + every*time.Duration(p.i)/time.Duration(p.run.Rooms*p.run.Publishers)
	for i := 0; ; i++ {
		if !pause(ctx, next-now()) {
			return
		}
		at := now()
		p.run.late.add(at - next)
		if next += every; at-next > 10*every { // the machine stood still: there is no use in sending all of it now
			next = at
		}
		select {
		case <-keyframes:
			i = 0
		default:
		}
		s := frames[i%len(frames)]
		putStamp(s.Data[len(s.Data)-stampSize:], p.run.id, at)
		send(s) //nolint:errcheck // what does not arrive is counted as such
	}
}

// watch reads a track until it ends.
func (p *person) watch(t *client.RemoteTrack) {
	at := now()
	kind, every := audio, toneEvery
	if t.Kind() == "video" {
		kind, every = video, clipEvery
	}
	m := &meter{run: p.run.id, video: kind == video, nominal: every}
	p.mu.Lock()
	p.meters[kind] = append(p.meters[kind], m)
	p.mu.Unlock()
	p.once.Do(func() {
		p.has.Store(true)
		p.run.mu.Lock()
		p.run.joins.add(at - p.asked)
		p.run.mu.Unlock()
		close(p.first)
	})
	p.wg.Go(func() {
		for {
			packet, err := t.ReadRTP()
			if err != nil {
				m.end(now())
				return
			}
			m.packet(packet, now())
		}
	})
}

func (p *person) event(e client.Event) {
	switch e := e.(type) {
	case client.StateChanged:
		if e.State == client.StateRecovering {
			p.again.Add(1)
		}
		if e.State == client.StateClosed && e.Err != nil && p.has.Load() {
			p.run.fail(e.Err, true)
		}
	case client.Bandwidth:
		p.estimate.Store(int64(e.Estimate))
	case client.Quality:
		me := p.id.Load()
		for _, q := range e.Peers {
			if me != nil && q.PeerID == *me {
				p.mu.Lock()
				p.quality = q.Quality
				p.mu.Unlock()
			}
		}
	}
}

func (p *person) reset() {
	for kind := range p.sent {
		p.sent[kind].Store(0)
		p.out[kind].Store(0)
	}
	p.again.Store(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range p.meters {
		for _, m := range all {
			m.reset()
		}
	}
}

// quiet stops what the person sends.
func (p *person) quiet() {
	if p.playing != nil {
		p.playing()
	}
}

func (p *person) leave() {
	p.quiet()
	if p.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
		defer cancel()
		p.client.Leave(ctx) //nolint:errcheck // never fails
	}
	p.wg.Wait()
}

// read adds up what all of the person's tracks of a kind have counted as of a time.
func (p *person) read(kind int, at time.Duration, latency *histogram) (sum seenOf) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.meters[kind] {
		s := m.read(at, latency)
		sum.expected += s.expected
		sum.received += s.received
		sum.bytes += s.bytes
		sum.freezes += s.freezes
		sum.frozen += s.frozen
	}
	return sum
}
