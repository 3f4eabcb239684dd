package testnet

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/client"
)

func TestTwoTalk(t *testing.T) {
	n := start(t, Options{})
	alice := n.join(t, "alice")
	alice.play("audio", "video")
	bob := n.join(t, "bob")
	bob.play("audio", "video")
	alice.connected()
	bob.connected()
	alice.hears(bob.PeerID(), 20, "audio", "video")
	bob.hears(alice.PeerID(), 20, "audio", "video")
	alice.chats(bob, "hello")
	bob.chats(alice, "hello yourself")
}

// chats opens a channel, if there is none, and waits for its message to arrive.
func (b *bot) chats(to *bot, text string) {
	b.t.Helper()
	chat, err := b.OpenData(within(b.t, patience), "chat", client.DataOptions{})
	require.NoError(b.t, err)
	require.NoError(b.t, chat.SendText(text))
	from := b.PeerID()
	to.until(patience, "chat message", func() bool {
		return slices.ContainsFunc(to.data, func(m client.DataMessage) bool {
			return string(m.Data) == text && m.Text && m.From == from && m.Label == "chat"
		})
	})
}

func TestThreeTalk(t *testing.T) {
	n := start(t, Options{})
	bots := []*bot{n.join(t, "alice"), n.join(t, "bob")}
	for _, b := range bots {
		b.play("audio", "video")
		b.connected()
	}
	late := n.join(t, "carol")
	began := time.Now()
	late.hears(bots[0].PeerID(), 1, "video")
	t.Logf("the third saw video %s after joining", time.Since(began).Round(time.Millisecond))
	late.play("audio", "video")
	bots = append(bots, late)
	for _, b := range bots {
		for _, o := range bots {
			if b != o {
				b.hears(o.PeerID(), 10, "audio", "video")
			}
		}
	}

	left := late.PeerID()
	require.NoError(t, late.Leave(within(t, patience)))
	for _, b := range bots[:2] {
		b.until(slow*time.Second, "news that the third left", func() bool {
			return slices.Contains(b.events, client.Event(client.PeerLeft{PeerID: left, Reason: "left"}))
		})
		b.until(patience, "end of the third's tracks", func() bool {
			return b.living(left, "audio") == nil && b.living(left, "video") == nil
		})
		require.Len(t, b.Peers(), 1)
	}
	require.NoError(t, late.Err())
}

func TestOnlyOneTransport(t *testing.T) {
	for _, transport := range []string{"tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			n := start(t, Options{})
			only := func(o *client.Options) { o.Transports = []string{transport} }
			alice, bob := n.join(t, "alice", only), n.join(t, "bob", only)
			alice.play("audio", "video")
			bob.hears(alice.PeerID(), 20, "audio", "video")
			urls := bob.Credentials().URLs
			require.NotEmpty(t, urls)
			for _, u := range urls {
				require.Equal(t, transport == "tls", strings.HasPrefix(u, "turns:"), u)
				require.Contains(t, u, "transport=tcp")
			}
		})
	}
}

func TestTracksComeAndGo(t *testing.T) {
	n := start(t, Options{})
	alice, bob := n.join(t, "alice"), n.join(t, "bob")
	bob.connected()
	screens := func() (found []*client.RemoteTrack) { // held: mu
		for _, r := range bob.tracks {
			if r.Info().Source == "screen" {
				found = append(found, r)
			}
		}
		return found
	}
	alice.play("audio", "video")
	for round := range 3 {
		screen, err := alice.Publish(within(t, patience), client.TrackOptions{Kind: "video", Source: "screen", Name: "slides"})
		require.NoError(t, err)
		alice.wg.Go(func() { playClip(alice.ctx, screen) })
		bob.until(patience, "the screen", func() bool { return len(screens()) == round+1 })
		bob.mu.Lock()
		remote := screens()[round]
		bob.mu.Unlock()
		bob.until(patience, "packets of the screen", func() bool { return remote.Packets() > 5 })
		id := screen.ID()
		require.Equal(t, id, remote.ID())
		require.Equal(t, "slides", remote.Info().Name)
		require.NoError(t, screen.Unpublish(within(t, patience)))
		bob.until(patience, "end of the screen", func() bool {
			return slices.ContainsFunc(bob.events, func(e client.Event) bool {
				u, ok := e.(client.TrackUnpublished)
				return ok && u.Track.TrackID == id
			})
		})
		select {
		case <-remote.Done():
		case <-time.After(patience):
			t.Fatal("the remote track goes on")
		}
	}
	bob.hears(alice.PeerID(), 10, "audio", "video")
}

func TestMute(t *testing.T) {
	n := start(t, Options{})
	alice, bob := n.join(t, "alice"), n.join(t, "bob")
	tracks := alice.play("audio")
	bob.hears(alice.PeerID(), 10, "audio")
	muted := func(want bool) func() bool {
		return func() bool {
			for i := range bob.events {
				if e, ok := bob.events[len(bob.events)-1-i].(client.TrackMuted); ok {
					return e.Track.Muted == want
				}
			}
			return false
		}
	}
	require.NoError(t, tracks[0].SetMuted(within(t, patience), true))
	bob.until(patience, "mute", muted(true))
	require.True(t, bob.Peers()[0].Tracks[0].Muted)
	require.NoError(t, tracks[0].SetMuted(within(t, patience), false))
	bob.until(patience, "unmute", muted(false))
	bob.hears(alice.PeerID(), 10, "audio")
}

func TestKeyframeOnRequest(t *testing.T) {
	n := start(t, Options{})
	alice, bob := n.join(t, "alice"), n.join(t, "bob")
	track, err := alice.Publish(within(t, patience), client.TrackOptions{Kind: "video"})
	require.NoError(t, err)
	alice.wg.Go(func() { playInter(alice.ctx, track) })
	bob.hears(alice.PeerID(), 10, "video")
	drain(track.KeyframeRequests())
	bob.mu.Lock()
	remote := bob.living(alice.PeerID(), "video")
	bob.mu.Unlock()
	require.NoError(t, remote.RequestKeyframe())
	select {
	case <-track.KeyframeRequests():
	case <-time.After(patience):
		t.Fatal("the publisher was not asked for a keyframe")
	}
}

func TestSubscribeByHand(t *testing.T) {
	n := start(t, Options{})
	no := false
	alice, bob := n.join(t, "alice"), n.join(t, "bob", func(o *client.Options) { o.AutoSubscribe = &no })
	alice.play("audio")
	bob.connected()
	var id orama.TrackID
	bob.until(patience, "news of the track", func() bool {
		for _, e := range bob.events {
			if p, ok := e.(client.TrackPublished); ok {
				id = p.Track.TrackID
			}
		}
		return id != ""
	})
	require.Empty(t, bob.tracks)
	require.NoError(t, bob.Subscribe(within(t, patience), id))
	bob.hears(alice.PeerID(), 10, "audio")
	require.NoError(t, bob.Unsubscribe(within(t, patience), id))
	bob.until(patience, "end of the track", func() bool { return bob.living(alice.PeerID(), "audio") == nil })
	require.NoError(t, bob.Subscribe(within(t, patience), id))
	bob.hears(alice.PeerID(), 10, "audio")
}

func TestRights(t *testing.T) {
	n := start(t, Options{})
	listener := n.join(t, "listener", func(o *client.Options) { o.Token = "alpha/listener+listen" })
	_, err := listener.Publish(within(t, patience), client.TrackOptions{Kind: "audio"})
	require.Equal(t, orama.KindForbidden, orama.KindOf(err))
	alice := n.join(t, "alice")
	alice.play("audio")
	listener.hears(alice.PeerID(), 10, "audio")

	_, err = client.Join(within(t, patience), n.URL, client.Options{Room: "daily", Token: "nonsense"})
	require.Equal(t, orama.KindUnauthenticated, orama.KindOf(err))
}
