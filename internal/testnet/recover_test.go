package testnet

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

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

func TestDrain(t *testing.T) {
	n := start(t, Options{SFUNodes: 2})
	alice, bob := pair(t, n)
	a := alice.PeerID()
	ctx := within(t, patience)
	n.SFU(Alpha, 0).Drain(ctx, "maintenance")
	require.NoError(t, ctx.Err(), "everybody left by themselves")
	lost(t, alice, bob, a)
	alice.until(patience, "draining event", func() bool {
		return slices.ContainsFunc(alice.events, func(e client.Event) bool {
			d, ok := e.(client.Draining)
			return ok && d.Reason == "maintenance"
		})
	})
}

// lost waits until both have new peer ids and hear each other.
func lost(t *testing.T, alice, bob *bot, was orama.PeerID) {
	t.Helper()
	alice.until(patience, "a new peer id", func() bool { return alice.PeerID() != was })
	alice.until(patience, "bob", func() bool { return len(alice.Peers()) == 1 && alice.Peers()[0].Name == "bob" })
	bob.until(patience, "alice", func() bool { return len(bob.Peers()) == 1 && bob.Peers()[0].PeerID == alice.PeerID() })
	alice.connected()
	bob.connected()
	alice.hears(bob.PeerID(), 2, "audio", "video")
	bob.hears(alice.PeerID(), 2, "audio", "video")
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
