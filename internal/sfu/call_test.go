package sfu

import (
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

func TestAudioAndVideoAreForwarded(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) {
		c.addTrack(t, opus)
		c.addTrack(t, vp8)
	}})
	bob := w.joinClient(clientOptions{})
	kinds := map[string]bool{}
	for range 2 {
		x := bob.hear()
		peer, track := x.stream()
		require.Equal(t, alice.id, peer, "the stream id is the publisher")
		told := await(bob.wire, func(m *signal.TrackPublished) bool { return m.Track.TrackID == track })
		require.Equal(t, x.t.Kind().String(), told.Track.Kind)
		kinds[x.t.Kind().String()] = true
		first := x.packet(t)
		require.Equal(t, first.SequenceNumber+1, x.packet(t).SequenceNumber)
	}
	require.Equal(t, map[string]bool{"audio": true, "video": true}, kinds)
}
