package testnet

import (
	"context"
	"log/slog"
	"math"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/client"
	"orama.network/orama/client/media"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = slow * 20 * time.Second

func start(t *testing.T, o Options) *Net {
	t.Helper()
	o.Log = logger(t)
	n, err := Start(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// logger is silent unless TESTNET_LOG is set.
func logger(t *testing.T) *slog.Logger {
	if os.Getenv("TESTNET_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	level := slog.LevelInfo
	if os.Getenv("TESTNET_LOG") == "debug" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// bot is a client that plays tone and clip and counts what it gets.
type bot struct {
	*client.Room
	t    *testing.T
	name string
	ctx  context.Context // of what it plays
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	tracks  []*client.RemoteTrack
	data    []client.DataMessage
	events  []client.Event
	states  []client.State
	atMove  uint64                    // the fewest packets of a living track when a move was told
	onTrack func(*client.RemoteTrack) // nil: nothing more
	news    chan struct{}             // closed and replaced with every change of the above
}

func (b *bot) note(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	close(b.news)
	b.news = make(chan struct{})
}

// until waits for something noted to make ok true.
func (b *bot) until(d time.Duration, what string, ok func() bool) {
	b.t.Helper()
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	poll := time.NewTicker(10 * time.Millisecond) // packets are counted without a note
	defer poll.Stop()
	for {
		b.mu.Lock()
		good, news := ok(), b.news
		b.mu.Unlock()
		if good {
			return
		}
		select {
		case <-news:
		case <-poll.C:
		case <-timeout.C:
			b.t.Fatalf("%s: no %s within %s (state %s)", b.name, what, d, b.State())
		}
	}
}

func (n *Net) join(t *testing.T, name string, change ...func(*client.Options)) *bot {
	t.Helper()
	b := &bot{t: t, name: name, news: make(chan struct{})}
	o := client.Options{
		Room: "daily", Token: string(n.o.Namespaces[0]) + "/" + name, Name: name, Logger: logger(t).With("bot", name),
		DialContext: n.DialContext, TLSConfig: n.ClientTLS(),
		OnTrack: func(r *client.RemoteTrack) {
			b.note(func() {
				b.tracks = append(b.tracks, r)
				if b.onTrack != nil {
					b.onTrack(r)
				}
			})
		},
		OnData: func(m client.DataMessage) { b.note(func() { b.data = append(b.data, m) }) },
		OnEvent: func(e client.Event) {
			b.note(func() {
				b.events = append(b.events, e)
				if s, ok := e.(client.StateChanged); ok {
					b.states = append(b.states, s.State)
				}
				if _, ok := e.(client.Moved); ok {
					b.atMove = b.fewest()
				}
			})
		},
	}
	for _, f := range change {
		f(&o)
	}
	room, err := client.Join(within(t, patience), n.URL, o)
	require.NoError(t, err)
	b.Room = room
	b.ctx, b.stop = context.WithCancel(context.Background())
	t.Cleanup(b.end)
	return b
}

// end closes the bot; more than once is fine.
func (b *bot) end() {
	b.stop()
	b.Close() //nolint:errcheck // never fails
	b.wg.Wait()
}

// play publishes tone and clip.
func (b *bot) play(kinds ...string) []*client.LocalTrack {
	b.t.Helper()
	var out []*client.LocalTrack
	for _, kind := range kinds {
		track, err := b.Publish(within(b.t, patience), client.TrackOptions{Kind: kind})
		require.NoError(b.t, err)
		out = append(out, track)
		b.wg.Go(func() {
			if kind == "audio" {
				media.PlayTone(b.ctx, track) //nolint:errcheck // ends with the room
			} else {
				media.PlayClip(b.ctx, track) //nolint:errcheck // ends with the room
			}
		})
	}
	return out
}

// hears waits until each living track of peer, of the kinds, brings n more packets.
func (b *bot) hears(peer orama.PeerID, n uint64, kinds ...string) {
	b.t.Helper()
	for _, kind := range kinds {
		var base uint64
		var on *client.RemoteTrack
		b.until(patience, kind+" packets", func() bool {
			cur := b.living(peer, kind)
			if cur != on {
				on, base = cur, 0
				if cur != nil {
					base = cur.Packets()
				}
			}
			return on != nil && on.Packets() >= base+n
		})
	}
}

// living finds peer's track of a kind that has not ended; mu is held.
func (b *bot) living(peer orama.PeerID, kind string) *client.RemoteTrack {
	for _, r := range b.tracks {
		select {
		case <-r.Done():
		default:
			if r.PeerID() == peer && r.Kind() == kind {
				return r
			}
		}
	}
	return nil
}

// fewest is how many packets the living track has that has the fewest; mu is held.
func (b *bot) fewest() uint64 {
	least := uint64(math.MaxUint64)
	for _, r := range b.tracks {
		select {
		case <-r.Done():
		default:
			least = min(least, r.Packets())
		}
	}
	return least % math.MaxUint64 // none: 0
}

func (b *bot) connected() {
	b.t.Helper()
	require.NoError(b.t, b.WaitState(within(b.t, patience), client.StateConnected))
}

func playClip(ctx context.Context, t media.Track) { media.PlayClip(ctx, t) } //nolint:errcheck // ends with the room

// playInter plays the clip's first keyframe once and then only what follows keyframes, deaf to requests.
func playInter(ctx context.Context, t *client.LocalTrack) {
	clip := media.Clip()
	tick := time.NewTicker(clip[0].Duration)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		if i >= len(clip) {
			i = 1
		}
		t.WriteSample(clip[i]) //nolint:errcheck // ends with the room
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}
