// Package media has small encoded sources for bots, load and tests: an Opus tone of one second and
// a VP8 clip of two, both made to be looped and decodable by browsers. It encodes nothing.
package media

import (
	"context"
	_ "embed" // the clips
	"encoding/binary"
	"time"

	"orama.network/orama/client"
)

// toneData is one second of a 440 Hz sine at 24 kbit/s, 50 packets of 60 bytes without a container.
//
//go:embed tone.bin
var toneData []byte

// clipData is an IVF file: VP8, 320x180, 20 frames a second, the first frame its only keyframe.
//
//go:embed clip.ivf
var clipData []byte

const (
	tonePacket = 60 // bytes
	toneLength = 20 * time.Millisecond
	toneLevel  = 0.27 // peak amplitude of the tone

	clipHeader  = 32 // bytes, then per frame a header of 12 with its size first
	frameHeader = 12
	clipFrame   = 50 * time.Millisecond
)

// Track is what a source plays to; *client.LocalTrack is one.
type Track interface {
	WriteSample(client.Sample) error
	KeyframeRequests() <-chan struct{}
}

// Tone gives the packets of the tone, 20 ms each. They must not be changed.
func Tone() []client.Sample {
	out := make([]client.Sample, 0, len(toneData)/tonePacket)
	for i := 0; i+tonePacket <= len(toneData); i += tonePacket {
		out = append(out, client.Sample{Data: toneData[i : i+tonePacket], Duration: toneLength, Level: toneLevel})
	}
	return out
}

// Silence is one Opus packet of 20 ms in which nothing is heard.
func Silence() client.Sample {
	return client.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: toneLength}
}

// Clip gives the frames of the clip, 50 ms each, a keyframe first. They must not be changed.
func Clip() []client.Sample {
	var out []client.Sample
	for rest := clipData[clipHeader:]; len(rest) >= frameHeader; {
		size := int(binary.LittleEndian.Uint32(rest))
		out = append(out, client.Sample{Data: rest[frameHeader : frameHeader+size], Duration: clipFrame})
		rest = rest[frameHeader+size:]
	}
	return out
}

// PlayTone plays the tone until ctx ends, which is no error.
func PlayTone(ctx context.Context, t Track) error { return play(ctx, t, Tone(), toneLength) }

// PlayClip plays the clip until ctx ends, from its keyframe again whenever one is asked for.
func PlayClip(ctx context.Context, t Track) error { return play(ctx, t, Clip(), clipFrame) }

func play(ctx context.Context, t Track, samples []client.Sample, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-t.KeyframeRequests():
			i = 0
		default:
		}
		if err := t.WriteSample(samples[i%len(samples)]); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
