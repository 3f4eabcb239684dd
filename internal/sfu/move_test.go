package sfu

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

func TestAMovedRoomIsAskedToGoAndThenEnded(t *testing.T) {
	w := newWorld(t)
	other := w.dial(func(t *auth.Ticket) { t.Room = "other" })
	alice, bob := w.dial(), w.dial()
	for _, c := range []*wire{other, alice, bob} {
		c.send(&signal.Join{})
		await[*signal.Joined](c)
	}
	require.True(t, w.srv.MoveRoom("daily", "elsewhere", 2*time.Second))
	for _, c := range []*wire{alice, bob} {
		m := await[*signal.ServerDraining](c)
		require.Equal(t, "elsewhere", m.Reason)
		require.Equal(t, 2000, m.DeadlineMS)
		require.Nil(t, m.Reconnect, "any gateway leads there")
	}
	require.True(t, w.srv.MoveRoom("daily", "elsewhere", time.Hour), "asking again changes nothing")
	alice.send(&signal.Leave{})
	require.Equal(t, signal.CloseLeft, alice.closeCode())

	// Somebody who comes meanwhile has been sent here by a newer record.
	carol := w.dial()
	carol.send(&signal.Join{})
	await[*signal.Joined](carol)
	require.Equal(t, signal.CloseGone, bob.closeCode(), "at the deadline")
	require.Eventually(t, func() bool { return w.room("daily").count.Load() == 1 }, patience, 5*time.Millisecond)
	require.Len(t, bob.asked(), 1)
	require.Empty(t, carol.asked())

	// If it is moved again, that one is to go too; the other room never hears of it.
	require.True(t, w.srv.MoveRoom("daily", "elsewhere", 0))
	await[*signal.ServerDraining](carol)
	require.Equal(t, signal.CloseGone, carol.closeCode())
	require.Eventually(t, func() bool { return w.room("daily").count.Load() == 0 }, patience, 5*time.Millisecond)
	other.send(&signal.Ping{T: 1})
	await[*signal.Pong](other)
	require.Empty(t, other.asked())
	require.False(t, w.srv.Status().Draining, "the SFU goes on")
	require.False(t, w.srv.MoveRoom("nowhere", "elsewhere", time.Second))
}

// asked are the requests to go that a socket has got.
func (c *wire) asked() (out []signal.Type) {
	for _, m := range c.types() {
		if m == signal.TypeServerDraining {
			out = append(out, m)
		}
	}
	return out
}

// A peer whose socket is lost cannot be asked; it is not kept for a resume either, or it would stay in two rooms.
func TestAPeerWithoutASocketIsNotKeptInAMovedRoom(t *testing.T) {
	w := newWorld(t)
	alice := w.dial()
	alice.send(&signal.Join{})
	await[*signal.Joined](alice)
	alice.ws.CloseNow() //nolint:errcheck // lost, not left
	<-alice.done
	require.EqualValues(t, 1, w.room("daily").count.Load(), "kept for a resume")
	require.True(t, w.srv.MoveRoom("daily", "elsewhere", 0))
	require.Eventually(t, func() bool { return w.room("daily").count.Load() == 0 }, patience, 5*time.Millisecond)
}

// Who moves here is shown to the others with the peer that it was, at once and to those who come later.
func TestAPeerThatMovesSaysFromWhere(t *testing.T) {
	w := newWorld(t)
	alice := w.dial()
	alice.send(&signal.Join{})
	await[*signal.Joined](alice)
	bob := w.dial()
	bob.send(&signal.Join{MovingFrom: "p_old"})
	await[*signal.Joined](bob)
	require.EqualValues(t, "p_old", await[*signal.PeerJoined](alice).Peer.MovingFrom)
	carol := w.dial()
	carol.send(&signal.Join{})
	m := await[*signal.Joined](carol)
	require.Len(t, m.Peers, 2)
	require.Empty(t, m.Peers[0].MovingFrom)
	require.EqualValues(t, "p_old", m.Peers[1].MovingFrom)
}
