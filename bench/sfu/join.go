package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"orama.network/orama/client"
)

const timedWithin = 10 * time.Second

// timeJoin has our Go client join a room, as anybody's would, and leave again: milliseconds from before the socket is
// dialled to the first packet of media.
func (r *room) timeJoin(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, timedWithin)
	defer cancel()
	first := make(chan time.Time, 1)
	began := time.Now()
	c, err := client.Join(ctx, "http://"+gatewayAt.String(), client.Options{
		Room: r.name, Token: string(namespace) + "/" + name + "+listen", Name: name,
		OnTrack: func(*client.RemoteTrack) {
			select {
			case first <- time.Now():
			default:
			}
		},
	})
	if err != nil {
		return 0, err
	}
	defer c.Leave(context.WithoutCancel(ctx)) //nolint:errcheck // never fails
	select {
	case at := <-first:
		return float64(at.Sub(began).Microseconds()) / 1000, nil
	case <-ctx.Done():
		return 0, errors.New("no media came to " + name)
	}
}

// joins are a round's.
func (b *bench) joins(ctx context.Context, c *contender, round int) ([]float64, error) {
	r := c.rooms[0]
	r.level(joinScale)
	defer r.level(0)
	var out []float64
	for i := range b.settings.joins {
		t, err := r.timeJoin(ctx, fmt.Sprintf("late-%d-%d", round, i))
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}
