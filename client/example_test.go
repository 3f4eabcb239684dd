package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"orama.network/orama/client"
	"orama.network/orama/client/media"
)

// A bot that plays a tone and counts what it hears.
func ExampleJoin() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	room, err := client.Join(ctx, "https://ns-myapp.example.com", client.Options{
		Room:  "daily",
		Token: "a token for bot",
		Name:  "bot",
		OnTrack: func(t *client.RemoteTrack) {
			go func() {
				for {
					if _, err := t.ReadRTP(); errors.Is(err, io.EOF) {
						fmt.Println(t.PeerID(), t.Kind(), "ended after", t.Packets(), "packets")
						return
					}
				}
			}()
		},
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer room.Leave(ctx) //nolint:errcheck // the process ends
	tone, err := room.Publish(ctx, client.TrackOptions{Kind: "audio"})
	if err != nil {
		log.Print(err)
		return
	}
	if err := media.PlayTone(ctx, tone); err != nil {
		log.Print(err)
	}
}

// A client that says hello to everybody else and prints what they say.
func ExampleRoom_OpenData() {
	ctx := context.Background()
	room, err := client.Join(ctx, "https://ns-myapp.example.com", client.Options{
		Room:   "daily",
		Token:  "a token for bot",
		OnData: func(m client.DataMessage) { fmt.Printf("%s: %s\n", m.From, m.Data) },
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer room.Close()
	chat, err := room.OpenData(ctx, "chat", client.DataOptions{})
	if err != nil {
		log.Print(err)
		return
	}
	if err := chat.SendText("hello"); err != nil {
		log.Print(err)
	}
}

// Waiting for media, and noticing when it had to be recovered.
func ExampleRoom_WaitState() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	room, err := client.Join(ctx, "https://ns-myapp.example.com", client.Options{
		Room:  "daily",
		Token: "a token for bot",
		OnEvent: func(e client.Event) {
			if s, ok := e.(client.StateChanged); ok {
				fmt.Println(s.State, s.Err)
			}
		},
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer room.Close()
	if err := room.WaitState(ctx, client.StateConnected); err != nil {
		log.Print(err)
	}
}
