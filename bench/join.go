package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/rtp/codecs"

	"orama.network/orama/client"
)

// joinApart lets the SFU's limit on keyframe requests, one in 500 ms, pass between two joins.
const (
	joinApart  = 700 * time.Millisecond
	frameEvery = 50 * time.Millisecond
	joinWithin = 10 * time.Second
)

func (l *lab) measureJoins(ctx context.Context, s settings) (Join, error) {
	if _, err := l.open(oramaTURN); err != nil {
		return Join{}, err
	}
	if err := l.target(oramaSFU); err != nil {
		return Join{}, err
	}
	var a audience
	defer a.stop()
	if err := a.publish(ctx, l, "joins", frameEvery); err != nil {
		return Join{}, err
	}
	var joined, packet, frame []float64
	for i := range s.joins {
		if err := pause(ctx, joinApart); err != nil {
			return Join{}, err
		}
		t, err := l.timeJoin(ctx, fmt.Sprintf("late-%d", i))
		if err != nil {
			return Join{}, err
		}
		joined, packet, frame = append(joined, t[0]), append(packet, t[1]), append(frame, t[2])
	}
	return Join{Joins: s.joins, Joined: median(joined), Packet: median(packet), Keyframe: median(frame)}, nil
}

// timeJoin gives the milliseconds to the confirmation, to the first packet and to the first whole keyframe.
func (l *lab) timeJoin(ctx context.Context, name string) (out [3]float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	began := time.Now()
	since := func() float64 { return float64(time.Since(began).Microseconds()) / 1000 }
	packet, frame := make(chan float64, 1), make(chan float64, 1)
	r, err := l.join(ctx, "joins", name, func(o *client.Options) {
		o.OnTrack = func(t *client.RemoteTrack) {
			packet <- since()
			go func() {
				if awaitKeyframe(t) {
					frame <- since()
				}
			}()
		}
	})
	if err != nil {
		return out, err
	}
	defer r.Leave(ctx) //nolint:errcheck // never fails
	out[0] = since()
	for i, c := range []chan float64{packet, frame} {
		select {
		case out[i+1] = <-c:
		case <-ctx.Done():
			return out, errors.New("no video came")
		}
	}
	return out, nil
}

// awaitKeyframe reads until a keyframe (RFC 7741, section 4.2) has arrived without a gap.
func awaitKeyframe(t *client.RemoteTrack) bool {
	var inside bool
	var last *rtp.Packet
	for {
		p, err := t.ReadRTP()
		if err != nil {
			return false
		}
		var v codecs.VP8Packet
		body, err := v.Unmarshal(p.Payload)
		switch {
		case err != nil || len(body) == 0:
			inside = false
		case v.S == 1 && v.PID == 0:
			inside = body[0]&1 == 0
		case last != nil && p.SequenceNumber != last.SequenceNumber+1:
			inside = false
		}
		if last = p; inside && p.Marker {
			return true
		}
	}
}
