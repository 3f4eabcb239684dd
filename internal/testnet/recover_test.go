package testnet

import (
	"context"
	"encoding/binary"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/client"
)

// soon is how fast media must be back after a server was lost.
const soon = slow * 5 * time.Second

// pair is two bots in a call.
func pair(t *testing.T, n *Net) (alice, bob *bot) {
	t.Helper()
	alice, bob = n.join(t, "alice"), n.join(t, "bob")
	for _, b := range []*bot{alice, bob} {
		b.play("audio", "video")
		b.connected()
	}
	alice.hears(bob.PeerID(), 10, "audio", "video")
	bob.hears(alice.PeerID(), 10, "audio", "video")
	return alice, bob
}

// gap watches the largest pause in the packets of peer's audio until the returned function is called.
func (b *bot) gap(peer orama.PeerID) func() time.Duration {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan time.Duration)
	b.mu.Lock()
	r := b.living(peer, "audio")
	b.mu.Unlock()
	require.NotNil(b.t, r)
	go func() {
		var most time.Duration
		last, count := time.Now(), r.Packets()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			if c := r.Packets(); c != count {
				last, count = time.Now(), c
			}
			most = max(most, time.Since(last))
		}
		done <- most
	}()
	return func() time.Duration {
		cancel()
		return <-done
	}
}

// seesState waits for s to be noted at all after index from.
func (b *bot) seesState(from int, s client.State) {
	b.t.Helper()
	b.until(patience, string(s), func() bool { return slices.Contains(b.states[from:], s) })
}

func (b *bot) noted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.states)
}

func TestLostSocketIsResumed(t *testing.T) {
	n := start(t, Options{})
	alice, bob := pair(t, n)
	a, b := alice.PeerID(), bob.PeerID()
	gap := bob.gap(a)
	from := alice.noted()
	n.Gateway.Cut()
	alice.seesState(from, client.StateRecovering)
	alice.connected()
	bob.connected()
	require.Equal(t, a, alice.PeerID())
	require.Equal(t, b, bob.PeerID())
	require.Less(t, gap(), slow*time.Second, "media goes on without the socket")
	bob.mu.Lock()
	require.Len(t, bob.tracks, 2, "no track came twice")
	bob.mu.Unlock()
	alice.chats(bob, "still here")
}

func TestSocketComesBackAfterRefusals(t *testing.T) {
	n := start(t, Options{})
	alice, _ := pair(t, n)
	a, asked := alice.PeerID(), n.Gateway.Requests()
	n.Gateway.Deny(http.StatusServiceUnavailable)
	n.Gateway.Cut()
	alice.until(patience, "second try", func() bool { return n.Gateway.Requests() >= asked+4 })
	require.Equal(t, client.StateRecovering, alice.State())
	n.Gateway.Deny(0)
	alice.connected()
	require.Equal(t, a, alice.PeerID())
}

func TestRefusalEndsTheRoom(t *testing.T) {
	n := start(t, Options{})
	alice := n.join(t, "alice")
	alice.connected()
	n.Gateway.Deny(http.StatusForbidden)
	n.Gateway.Cut()
	err := alice.WaitState(within(t, patience), client.StateConnecting)
	require.Equal(t, orama.KindForbidden, orama.KindOf(err))
	<-alice.Done()
	require.Equal(t, orama.KindForbidden, orama.KindOf(alice.Err()))
}

func TestSFURestart(t *testing.T) {
	n := start(t, Options{})
	alice, bob := pair(t, n)
	a := alice.PeerID()
	began := time.Now()
	require.NoError(t, n.StopSFU(Alpha, 0))
	require.NoError(t, n.StartSFU(Alpha, 0))
	lost(t, alice, bob, a)
	t.Logf("media back %s after the SFU was lost", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), soon)
	alice.chats(bob, "a new one")
}

func TestSFULostForGood(t *testing.T) {
	n := start(t, Options{SFUNodes: 2})
	alice, bob := pair(t, n)
	a := alice.PeerID()
	began := time.Now()
	require.NoError(t, n.StopSFU(Alpha, 0))
	lost(t, alice, bob, a)
	t.Logf("media back %s after the SFU was lost", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), soon)
}

// A draining SFU is left only when media comes at the next one: of what is sent nothing is missing, nobody recovers, and success is not told
// before there are packets.
func TestDrain(t *testing.T) {
	n := start(t, Options{SFUNodes: 2})
	alice, bob := n.join(t, "alice"), n.join(t, "bob")
	heard := bob.counts()
	alice.playNumbers()
	bob.play("audio", "video")
	alice.hears(bob.PeerID(), 10, "audio", "video")
	bob.hears(alice.PeerID(), 10, "audio")
	channel, err := alice.OpenData(within(t, patience), "chat", client.DataOptions{})
	require.NoError(t, err)
	was := map[*bot]orama.PeerID{alice: alice.PeerID(), bob: bob.PeerID()}
	from := map[*bot]int{alice: alice.noted(), bob: bob.noted()}
	ctx := within(t, patience)
	n.SFU(Alpha, 0).Drain(ctx, "maintenance")
	require.NoError(t, ctx.Err(), "everybody left by themselves")
	lost(t, alice, bob, was[alice], "audio")
	for _, b := range []*bot{alice, bob} {
		b.mu.Lock()
		states, events, atMove := slices.Clone(b.states[from[b]:]), slices.Clone(b.events), b.atMove
		b.mu.Unlock()
		require.Empty(t, states, "%s never lost anything", b.name)
		at := slices.IndexFunc(events, func(e client.Event) bool {
			m, ok := e.(client.Moved)
			return ok && m == (client.Moved{From: was[b], To: b.PeerID()})
		})
		require.GreaterOrEqual(t, at, 0, "%s: %v", b.name, events)
		drained := slices.IndexFunc(events, func(e client.Event) bool { d, ok := e.(client.Draining); return ok && d.Reason == "maintenance" })
		require.True(t, drained >= 0 && drained < at, "the client was asked")
		left := slices.IndexFunc(events, func(e client.Event) bool { l, ok := e.(client.PeerLeft); return ok && l.Reason == "moved" })
		require.True(t, left >= 0 && left < at)
		require.Positive(t, atMove, "%s was told of the move when packets of everything had come", b.name)
	}
	hole, first, last := heard()
	require.Greater(t, last-first, 20)
	require.LessOrEqual(t, hole, 5, "of %d to %d", first, last)
	require.NoError(t, channel.WaitOpen(within(t, patience)), "opened at the new place")
	alice.chats(bob, "here as well")
}

// playNumbers publishes sound whose packets are numbered by their payload.
func (b *bot) playNumbers() {
	b.t.Helper()
	track, err := b.Publish(within(b.t, patience), client.TrackOptions{Kind: "audio"})
	require.NoError(b.t, err)
	b.wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := uint32(1); b.ctx.Err() == nil; i++ {
			payload := binary.BigEndian.AppendUint32([]byte{0x80}, i)
			track.WriteRTP(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(i), Timestamp: 480 * i}, Payload: payload}) //nolint:errcheck // ends with the room
			<-tick.C
		}
	})
}

// counts reads the numbers of all sound that is sent so from now on. The function it gives tells how many in a row never came, between which.
func (b *bot) counts() func() (hole, first, last int) {
	var mu sync.Mutex
	var all []int
	b.mu.Lock()
	b.onTrack = func(r *client.RemoteTrack) {
		if r.Kind() != "audio" {
			return
		}
		b.wg.Go(func() {
			for {
				p, err := r.ReadRTP()
				if err != nil {
					return
				}
				if len(p.Payload) == 5 {
					mu.Lock()
					all = append(all, int(binary.BigEndian.Uint32(p.Payload[1:])))
					mu.Unlock()
				}
			}
		})
	}
	b.mu.Unlock()
	return func() (hole, first, last int) {
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(all)
		for i := 1; i < len(all); i++ {
			hole = max(hole, all[i]-all[i-1]-1)
		}
		return hole, all[0], all[len(all)-1]
	}
}

// lost waits until both have new peer ids and hear each other; plays is what alice does.
func lost(t *testing.T, alice, bob *bot, was orama.PeerID, plays ...string) {
	t.Helper()
	alice.until(patience, "a new peer id", func() bool { return alice.PeerID() != was })
	alice.until(patience, "bob", func() bool { return len(alice.Peers()) == 1 && alice.Peers()[0].Name == "bob" })
	bob.until(patience, "alice", func() bool { return len(bob.Peers()) == 1 && bob.Peers()[0].PeerID == alice.PeerID() })
	alice.connected()
	bob.connected()
	alice.hears(bob.PeerID(), 2, "audio", "video")
	if len(plays) == 0 {
		plays = []string{"audio", "video"}
	}
	bob.hears(alice.PeerID(), 2, plays...)
}

func TestTURNRestart(t *testing.T) {
	n := start(t, Options{})
	alice, bob := pair(t, n)
	a, from := alice.PeerID(), alice.noted()
	began := time.Now()
	require.NoError(t, n.StopTURN(0))
	require.NoError(t, n.StartTURN(0))
	restored(t, alice, bob, from, began)
	require.Equal(t, a, alice.PeerID(), "an ICE restart was enough")
}

func TestTURNLostForGood(t *testing.T) {
	n := start(t, Options{TURNNodes: 2})
	alice, bob := pair(t, n)
	from := alice.noted()
	began := time.Now()
	k := 0 // the one that carries the call
	if alice.Relay().Addr() == n.RelayIP(1) {
		k = 1
	}
	require.Equal(t, n.RelayIP(k), alice.Relay().Addr())
	require.NoError(t, n.StopTURN(k))
	restored(t, alice, bob, from, began)
}

func restored(t *testing.T, alice, bob *bot, from int, began time.Time) {
	t.Helper()
	alice.seesState(from, client.StateRecovering)
	alice.connected()
	bob.connected()
	alice.hears(bob.PeerID(), 2, "audio", "video")
	bob.hears(alice.PeerID(), 2, "audio", "video")
	t.Logf("media back %s after the relay was lost", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), soon)
}

func TestCallOutlivesItsCredential(t *testing.T) {
	const ttl = 3 * time.Second
	n := start(t, Options{CredentialTTL: ttl})
	alice, bob := pair(t, n)
	var old client.Credentials
	alice.until(patience, "a credential that is good when it comes", func() bool { // on a slow machine the first is over by now
		old = alice.Credentials()
		return n.allocate(t, old.Username, old.Credential) == nil
	})
	require.Equal(t, int(ttl.Seconds()), old.TTL)
	gap := bob.gap(alice.PeerID())
	alice.until(patience, "fresh credentials", func() bool { return alice.Credentials().Username != old.Username })
	<-time.After(time.Until(expiryOf(t, old.Username).Add(2 * time.Second))) // the wall clock is the event
	require.Error(t, n.allocate(t, old.Username, old.Credential), "it is refused after its expiry")
	alice.hears(bob.PeerID(), 10, "audio", "video")
	bob.hears(alice.PeerID(), 10, "audio", "video")
	require.Less(t, gap(), slow*time.Second, "the call went on meanwhile")
	alice.until(patience, "allocation with a fresh credential", func() bool {
		now := alice.Credentials()
		return n.allocate(t, now.Username, now.Credential) == nil
	})
}
