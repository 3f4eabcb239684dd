package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"orama.network/orama/client"
	"orama.network/orama/client/media"
	"orama.network/orama/internal/testnet"
)

// The load on an SFU: one who sends 400 packets of video a second and ten who watch.
const (
	watchers    = 10
	sampleEvery = 2500 * time.Microsecond
	readyWithin = 10 * time.Second
)

func (l *lab) measureSFU(ctx context.Context, s settings) ([]Cost, error) {
	if _, err := l.open(oramaTURN); err != nil {
		return nil, err
	}
	servers := []string{oramaSFU, pionSFU}
	samples := map[string][]sample{}
	for round := range s.rounds {
		for _, name := range servers {
			one, err := l.forwardWindow(ctx, name, fmt.Sprintf("round-%d", round), s.window)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			samples[name] = append(samples[name], one)
		}
	}
	return costs(servers, pionSFU, samples), nil
}

// forwardWindow has one publish and the others watch for a while.
func (l *lab) forwardWindow(ctx context.Context, name, room string, window time.Duration) (sample, error) {
	if err := l.target(name); err != nil {
		return sample{}, err
	}
	var a audience
	defer a.stop()
	if err := a.publish(ctx, l, room, sampleEvery); err != nil {
		return sample{}, err
	}
	if err := pause(ctx, warmUp); err != nil { // the stock one tells of no track that comes after a join
		return sample{}, err
	}
	for i := range watchers {
		if err := a.watch(ctx, l, room, fmt.Sprintf("watcher-%d", i)); err != nil {
			return sample{}, err
		}
	}
	if err := a.ready(ctx); err != nil {
		return sample{}, err
	}
	server, err := l.open(name)
	if err != nil {
		return sample{}, err
	}
	return measureWindow(ctx, server, window, a.count)
}

// audience is a publisher and those who watch.
type audience struct {
	rooms   []*client.Room
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	got     [watchers]atomic.Uint64 // packets
	lost    [watchers]atomic.Uint64 // gaps in the sequence numbers
	watched int
}

func (l *lab) join(ctx context.Context, room, name string, change func(*client.Options)) (*client.Room, error) {
	o := client.Options{Room: room, Token: string(testnet.Alpha) + "/" + name, Name: name, DialContext: l.net.DialContext}
	if change != nil {
		change(&o)
	}
	return client.Join(ctx, l.net.URL, o)
}

// publish plays the clip, a frame every so often.
func (a *audience) publish(ctx context.Context, l *lab, room string, every time.Duration) error {
	r, err := l.join(ctx, room, "publisher", nil)
	if err != nil {
		return err
	}
	a.rooms = append(a.rooms, r)
	t, err := r.Publish(ctx, client.TrackOptions{Kind: "video"})
	if err != nil {
		return err
	}
	if err := r.WaitState(ctx, client.StateConnected); err != nil {
		return err
	}
	playing, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.wg.Go(func() { playEvery(playing, t, every) })
	return nil
}

func playEvery(ctx context.Context, t *client.LocalTrack, every time.Duration) {
	clip := media.Clip()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-t.KeyframeRequests():
			i = 0
		case <-tick.C:
		}
		s := clip[i%len(clip)]
		s.Duration = every
		t.WriteSample(s) //nolint:errcheck // what does not arrive is counted as such
	}
}

func (a *audience) watch(ctx context.Context, l *lab, room, name string) error {
	i := a.watched
	a.watched++
	r, err := l.join(ctx, room, name, func(o *client.Options) {
		o.OnTrack = func(t *client.RemoteTrack) { a.wg.Go(func() { a.read(i, t) }) }
	})
	if err == nil {
		a.rooms = append(a.rooms, r)
	}
	return err
}

func (a *audience) read(i int, t *client.RemoteTrack) {
	var last uint16
	for first := true; ; first = false {
		p, err := t.ReadRTP()
		if err != nil {
			return
		}
		a.got[i].Add(1)
		if gap := p.SequenceNumber - last; !first && gap > 1 && gap < 1<<15 {
			a.lost[i].Add(uint64(gap - 1))
		}
		last = p.SequenceNumber
	}
}

// ready waits until everybody sees packets.
func (a *audience) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for i := range a.watched {
		for a.got[i].Load() == 0 {
			if pause(ctx, 10*time.Millisecond) != nil {
				return fmt.Errorf("watcher %d of %d sees nothing after %s and is %s", i, a.watched, readyWithin, a.rooms[1+i].State())
			}
		}
	}
	return nil
}

func (a *audience) count() (sent, arrived uint64) {
	for i := range a.watched {
		arrived += a.got[i].Load()
		sent += a.got[i].Load() + a.lost[i].Load()
	}
	return sent, arrived
}

func (a *audience) stop() {
	if a.cancel != nil {
		a.cancel()
	}
	var leaving sync.WaitGroup
	for _, r := range a.rooms {
		leaving.Go(func() { r.Leave(context.Background()) }) //nolint:errcheck // never fails
	}
	leaving.Wait()
	a.wg.Wait()
}
