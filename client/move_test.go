package client

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

// draining confirms a join, asks to go, and stays until told; it passes on what the client sends meanwhile.
func draining(j signal.Joined, heard chan<- signal.Message, end <-chan struct{}) func(*websocket.Conn, signal.Join) {
	return func(ws *websocket.Conn, _ signal.Join) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, m := range []signal.Message{&j, &signal.TURNCredentials{Credentials: signal.Credentials{URLs: []string{"turn:127.0.0.1:9?transport=udp"}, Username: "u", Credential: "c", TTL: 600}},
			&signal.ServerDraining{Reason: "maintenance", DeadlineMS: 30_000}} {
			frame, _ := signal.Encode(m)
			ws.Write(ctx, websocket.MessageText, frame) //nolint:errcheck // a test's
		}
		go func() {
			select {
			case <-end:
				ws.Close(signal.CloseGone, "") //nolint:errcheck // a test's
			case <-ctx.Done():
			}
		}()
		for {
			_, frame, err := ws.Read(ctx)
			if err != nil {
				return
			}
			if m, err := signal.Decode(frame); err == nil {
				heard <- m
			}
		}
	}
}

// The new place lets us in and carries nothing: where we are stays where we are, and is resumed when its socket is lost.
func TestTheOldPlaceIsKeptUntilTheNewOneServes(t *testing.T) {
	heard, end := make(chan signal.Message, 64), make(chan struct{})
	s := play(t, draining(signal.Joined{PeerID: "p_1", Resume: "r_1"}, heard, end), admit(signal.Joined{PeerID: "p_9", Resume: "r_9"}, 0),
		admit(signal.Joined{PeerID: "p_1", Resume: "r_2", Resumed: true}, 0))
	events := make(chan Event, 64)
	r := join(t, s, Options{OnEvent: func(e Event) { events <- e }})
	require.Eventually(t, func() bool { return len(s.joins()) == 2 }, patience, 5*time.Millisecond)
	second := s.joins()[1]
	require.Equal(t, orama.PeerID("p_1"), second.MovingFrom)
	require.Empty(t, second.Resume)
	require.Equal(t, orama.PeerID("p_1"), r.PeerID())
	close(end)
	require.Eventually(t, func() bool { return len(s.joins()) == 3 }, patience, 5*time.Millisecond)
	third := s.joins()[2]
	require.Equal(t, "r_1", third.Resume)
	require.Empty(t, third.MovingFrom)
	require.NoError(t, r.Close())
	for {
		select {
		case m := <-heard:
			require.NotEqual(t, signal.TypeLeave, m.Type(), "the old place was left")
			continue
		case e := <-events:
			_, moved := e.(Moved)
			require.False(t, moved)
			continue
		default:
		}
		break
	}
}

// A join that leads back to where we are is no move: it is left, and tried again.
func TestAMoveInACircleIsTriedAgain(t *testing.T) {
	heard := make(chan signal.Message, 64)
	back := draining(signal.Joined{PeerID: "p_2", Peers: []signal.Peer{{PeerID: "p_1"}}}, heard, nil)
	s := play(t, draining(signal.Joined{PeerID: "p_1", Resume: "r_1"}, make(chan signal.Message, 64), nil), back)
	r := join(t, s, Options{})
	require.Eventually(t, func() bool { return len(s.joins()) >= 3 }, patience, 5*time.Millisecond)
	require.Equal(t, orama.PeerID("p_1"), s.joins()[2].MovingFrom)
	require.Equal(t, orama.PeerID("p_1"), r.PeerID())
	require.Equal(t, signal.TypeLeave, (<-heard).Type())
}

func TestCredentialsKeepToTLS(t *testing.T) {
	for _, c := range []struct{ own, told, want string }{
		{"wss://a.example", "wss://b.example/v1/webrtc/signal?room=x", "wss://b.example/v1/webrtc/signal?room=daily"},
		{"wss://a.example", "ws://b.example/v1/webrtc/signal", ""},
		{"ws://a.example", "https://b.example", "wss://b.example/v1/webrtc/signal?room=daily"},
		{"ws://a.example", "nonsense", ""},
	} {
		r := &Room{opts: Options{Room: "daily"}, endpoints: []string{c.own}}
		require.Equal(t, c.want, r.endpointOf(c.told), c.told)
		require.Len(t, r.endpoints, 1+len(c.want[:min(1, len(c.want))]))
	}
	r := &Room{endpoints: []string{"ws://a.example"}}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("http://%d.example", i))
	}
	r.learn(many)
	require.Len(t, r.endpoints, maxEndpoints)
}

// What is the same at both places goes by who the servers say it is of, and by what it is.
func TestWhoIsWhoAtTheNewPlace(t *testing.T) {
	was := Peer{PeerID: "p_1", UserID: "alice", Tracks: []Track{{TrackID: "t_1", Kind: "video", Source: "camera"}, {TrackID: "t_2", Kind: "video", Source: "screen"}}}
	is := Peer{PeerID: "p_2", UserID: "alice", MovingFrom: "p_1", Tracks: []Track{{TrackID: "t_9", Kind: "video", Source: "camera"}}}
	r := &Room{here: &place{}, move: &move{}}
	r.here.room = r
	r.move.to = &place{room: r, peers: map[orama.PeerID]*Peer{
		"p_3": {PeerID: "p_3", UserID: "mallory", MovingFrom: "p_1"}, "p_2": &is,
	}}
	got, ok := r.counterpart(was)
	require.True(t, ok)
	require.Equal(t, orama.PeerID("p_2"), got.PeerID)
	require.Equal(t, orama.TrackID("t_9"), sameTrack(was, "t_1", is))
	require.Equal(t, orama.TrackID("-"), sameTrack(was, "t_2", is), "not there yet")
	require.Empty(t, sameTrack(was, "t_7", is))
	is.MovingFrom = ""
	_, ok = r.counterpart(was)
	require.False(t, ok)
}
