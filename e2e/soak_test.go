//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/client"
	"orama.network/orama/client/media"
)

// soakFor is how long TestSoak goes on. ORAMA_SOAK=30m is for what shows slowly.
func soakFor(t testing.TB) time.Duration {
	text := os.Getenv("ORAMA_SOAK")
	if text == "" {
		return 8 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

const (
	// window is how long a subscription may stand still while its publisher sends.
	window = 2 * time.Second
	// beginning is how long after both are there a subscription may take to begin.
	beginning = 4 * time.Second
)

// ledger knows who sends what and who is there to get it, and holds the two against each other.
type ledger struct {
	t    testing.TB
	mu   sync.Mutex
	sent map[string]time.Time // guarded by mu; by track id, since when its publisher sends
	whom map[string]string    // guarded by mu; by track id, its publisher
	subs map[string]*subscriber

	seen  int           // guarded by mu; subscriptions that began
	slow  time.Duration // guarded by mu; the longest until one did
	most  time.Duration // guarded by mu; the longest gap in one
	worst string        // guarded by mu; in which that was
	told  []string      // guarded by mu; what stood still
	lines []string      // guarded by mu; what was written in the chat
}

// subscriber is somebody who gets everything of the others.
type subscriber struct {
	since time.Time
	got   map[string]*progress
}

// progress is one subscription: how much has come, and when that rose last.
type progress struct {
	count uint64
	at    time.Time
	told  bool
}

func newLedger(t testing.TB) *ledger {
	return &ledger{t: t, sent: map[string]time.Time{}, whom: map[string]string{}, subs: map[string]*subscriber{}}
}

func (l *ledger) sends(who, track string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[track], l.whom[track] = time.Now(), who
}

func (l *ledger) joins(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs[who] = &subscriber{since: time.Now(), got: map[string]*progress{}}
}

// says notes a line that everybody who is there is to have.
func (l *ledger) says(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// leaves is called before somebody begins to leave: nothing is expected of, or for, who is going.
func (l *ledger) leaves(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.subs, who)
	for track, publisher := range l.whom {
		if publisher == who {
			delete(l.whom, track)
			delete(l.sent, track)
		}
	}
}

// note takes what somebody has got of each track so far, and reports whether it has found what does not rise.
func (l *ledger) note(who string, counts map[string]uint64) (stuck bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, now := l.subs[who], time.Now()
	if s == nil {
		return false
	}
	for track, since := range l.sent {
		if l.whom[track] == who {
			continue
		}
		if s.since.After(since) {
			since = s.since
		}
		p := s.got[track]
		if p == nil {
			p = &progress{at: since}
			s.got[track] = p
		}
		allowed := window
		if p.count == 0 {
			allowed = beginning
		}
		if n := counts[track]; n != p.count {
			took := now.Sub(p.at)
			if p.count == 0 {
				l.seen, l.slow = l.seen+1, max(l.slow, took)
			} else if took > l.most {
				l.most, l.worst = took, who+" of "+l.whom[track]
			}
			*p = progress{count: n, at: now}
		} else if still := now.Sub(p.at); still > allowed && !p.told && still > held(l.t, allowed, p.at) {
			p.told, stuck = true, true
			l.told = append(l.told, fmt.Sprintf("%s: nothing of %s's %s for %v at %d", who, l.whom[track], track, still, n))
		}
	}
	return stuck
}

// bot is a peer of the Go client.
type bot struct {
	*client.Room
	user string

	mu     sync.Mutex
	tracks map[string]*client.RemoteTrack // guarded by mu
	before map[string]uint64              // guarded by mu; what came of a track on an earlier connection
}

func (v *bot) takes(t *client.RemoteTrack) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := string(t.ID())
	if had := v.tracks[id]; had != nil {
		v.before[id] += had.Packets()
	}
	v.tracks[id] = t
}

func (v *bot) counts() map[string]uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string]uint64{}
	for id, t := range v.tracks {
		out[id] = v.before[id] + t.Packets()
	}
	return out
}

// visit is a stay of somebody in a room, who sends sound and a picture and gets everything.
func (l *ledger) visit(ctx context.Context, c *cluster, room, user string, stay time.Duration) error {
	v := &bot{user: user, tracks: map[string]*client.RemoteTrack{}, before: map[string]uint64{}}
	var err error
	v.Room, err = client.Join(ctx, c.Gateways[rand.IntN(len(c.Gateways))], client.Options{Room: room, Token: c.mint(l.t, user), Name: user, OnTrack: v.takes})
	if err != nil {
		return err
	}
	playing, stop := context.WithCancel(ctx)
	var players sync.WaitGroup
	defer func() {
		l.leaves(user)
		stop()
		players.Wait()
		leaving, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		v.Leave(leaving) //nolint:errcheck // whoever does not, is found by the counts
	}()
	if err := v.WaitState(ctx, client.StateConnected); err != nil {
		return err
	}
	for kind, play := range map[string]func(context.Context, media.Track) error{"audio": media.PlayTone, "video": media.PlayClip} {
		local, err := v.Publish(ctx, client.TrackOptions{Kind: kind})
		if err != nil {
			return err
		}
		players.Go(func() { play(playing, local) }) //nolint:errcheck // what does not come is seen
		for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
			if id := string(local.ID()); id != "" {
				tick.Stop()
				l.sends(user, id)
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	chat, err := v.OpenData(ctx, "chat", client.DataOptions{})
	if err != nil {
		return err
	}
	if err := chat.WaitOpen(ctx); err != nil {
		return err
	}
	if err := chat.SendText(user); err != nil {
		return err
	}
	l.says(user)
	l.joins(user)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(stay); ; {
		select {
		case <-tick.C:
			l.note(user, v.counts())
		case <-over:
			return nil
		case <-v.Done():
			return fmt.Errorf("%s was closed: %w", user, v.Err())
		case <-ctx.Done():
			return nil
		}
	}
}

// come has so many people at a time come and go until the time is over, and gives how many came.
func (l *ledger) come(c *cluster, room string, at int, until time.Time) (n int) {
	ctx, cancel := context.WithDeadline(context.Background(), until.Add(time.Minute))
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	for i := range at {
		all.Go(func() {
			for k := 0; time.Now().Before(until); k++ {
				user := fmt.Sprintf("visitor-%d-%d-%d", i, k, until.Unix())
				if err := l.visit(ctx, c, room, user, time.Duration(3000+rand.IntN(4000))*time.Millisecond); err != nil && !errors.Is(err, context.Canceled) {
					l.t.Errorf("%s: %v", user, err)
				}
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return n
}

// follow notes what the browsers get, until the context ends.
func (l *ledger) follow(ctx context.Context, people []*person) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		for _, p := range people {
			var all map[string]struct{ Frames uint64 }
			err := p.d.call("eval", map[string]any{"page": p.name, "body": "return participant.frames()", "args": []any{}}, &all)
			if err != nil {
				l.t.Errorf("%s: %v", p.user, err)
				return
			}
			counts := map[string]uint64{}
			for id, f := range all {
				counts[id] = f.Frames
			}
			if l.note(p.user, counts) {
				l.t.Logf("at %d: %s", time.Now().UnixMilli()%1e6, p.state())
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// Peers come and go while two browsers stay, and everybody gets everything of everybody all the time: no subscription stands still for
// two seconds. In the end the processes hold what they held before.
func TestSoak(t *testing.T) {
	c := up(t)
	m := c.meeting(t, c.Namespace, "soak")
	m.camera = map[string]any{"width": 320, "height": 180, "frameRate": 10}
	m.enter(chromium, "ada")
	m.enter(firefox, "bob")
	m.allMeet(20 * time.Second)
	l := newLedger(t)
	for _, p := range m.people {
		for _, id := range p.tracks(2) {
			l.sends(p.user, id)
		}
		l.joins(p.user)
	}
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { l.follow(ctx, m.people) })
	l.come(c, "soak", 3, time.Now().Add(time.Second)) // what is made once is made now
	before := c.settles(t)
	c.profiles(t, "before")
	began, n := time.Now(), 0
	for until := began.Add(soakFor(t)); time.Now().Before(until); {
		n += l.come(c, "soak", 3, slices.MinFunc([]time.Time{until, time.Now().Add(time.Minute)}, time.Time.Compare))
		l.mu.Lock()
		t.Logf("after %v: %d visits, %d subscriptions, the slowest began after %v, the longest gap was %v (%s)", time.Since(began).Round(time.Second), n, l.seen, l.slow, l.most, l.worst)
		l.mu.Unlock()
		for who, v := range c.vitals(t) {
			t.Logf("%s: %+v", who, v)
		}
		for _, p := range m.people {
			var sections []int
			require.NoError(t, p.d.call("eval", map[string]any{"page": p.name, "body": "return __probe.live().map((pc) => pc.getTransceivers().length)", "args": []any{}}, &sections))
			t.Logf("%s has sections %v", p.user, sections)
		}
	}
	c.profiles(t, "after")
	took := eventually(t, 90*time.Second, func() string { // who was lost on the way is missed for a while
		var wrong []string
		for who, now := range c.vitals(t) {
			was, ok := before[who]
			if !ok || now.goroutines > was.goroutines+10 || now.files > was.files+10 || now.memory > was.memory+was.memory/2+32<<20 {
				wrong = append(wrong, fmt.Sprintf("%s holds %+v, before %+v", who, now, was))
			}
		}
		return strings.Join(wrong, "; ")
	})
	stop()
	following.Wait()
	for _, p := range m.people {
		p.until(3*time.Second, "all that was written", "args[0].every((line) => participant.chats.some((c) => c.text === line))", l.lines)
	}
	m.chat() // its channels have numbers that others had
	for who, now := range c.settles(t) {
		was := before[who]
		t.Logf("%s: goroutines %d → %d, descriptors %d → %d, memory %d → %d MB, of it the heap's goal %d → %d, stacks %d → %d", who, was.goroutines, now.goroutines, was.files, now.files,
			was.memory>>20, now.memory>>20, was.heap>>20, now.heap>>20, was.stacks>>20, now.stacks>>20)
	}
	t.Logf("that was so %s after the last had left", ms(took))
	require.Empty(t, l.told, strings.Join(l.told, "\n"))
}

// profiles writes the SFUs' heaps, and what goroutines they have, into the directory ORAMA_SOAK_PROFILES.
func (c *cluster) profiles(t testing.TB, when string) {
	t.Helper()
	dir := os.Getenv("ORAMA_SOAK_PROFILES")
	if dir == "" {
		return
	}
	for _, n := range c.Nodes {
		for _, kind := range []string{"heap", "goroutine"} {
			b := ofUnit(t, filepath.Join(c.dir, n.ID, "sfu-"+c.Namespace+".sock"), "/debug/pprof/"+kind)
			require.NoError(t, os.WriteFile(filepath.Join(dir, n.ID+"-"+kind+"-"+when+".pprof"), b, 0o600))
		}
	}
}

// settles waits until the processes have not come to hold less for a second, and gives the least.
func (c *cluster) settles(t testing.TB) (least map[string]vital) {
	t.Helper()
	total := func(all map[string]vital) (n int) {
		for _, v := range all {
			n += v.goroutines + v.files
		}
		return n
	}
	least = c.vitals(t)
	for since := time.Now(); time.Since(since) < time.Second; {
		if now := c.vitals(t); total(now) < total(least) {
			least, since = now, time.Now()
		}
	}
	return least
}
