// Package client joins a room of an Orama cluster: it publishes and receives audio, video and data,
// and keeps doing so when sockets, relays and media servers fail. Everything travels through TURN.
//
//	room, err := client.Join(ctx, "https://ns-myapp.orama.network", client.Options{
//		Room:    "daily",
//		Token:   token,
//		OnTrack: func(t *client.RemoteTrack) { go record(t) },
//	})
//	if err != nil { … }
//	defer room.Close()
//
// It speaks docs/protocol.md and nothing else: it does not create rooms, mint tokens, encode or
// decode media. Package client/media has small encoded sources for bots and tests.
//
// A server that is to be stopped asks its rooms to move. The Room joins the new place before it leaves the old one (move.go), and goes over when
// everybody is there and packets come: a RemoteTrack ends, and another one that was announced just before it goes on where it was.
//
// One goroutine, the loop in room.go, owns a Room's conversation; every exported method posts to
// it or reads a snapshot, so all of them may be called from anywhere at any time.
package client
