package media

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestToneIsOneSecondOfOpus(t *testing.T) {
	var length time.Duration
	for _, s := range append(Tone(), Silence()) {
		// RFC 6716, section 3.1: configurations 19, 23, 27 and 31 are 20 ms of CELT; code 0 is one frame.
		require.Contains(t, []byte{19, 23, 27, 31}, s.Data[0]>>3)
		require.Equal(t, toneLength, s.Duration)
		length += s.Duration
	}
	require.Equal(t, time.Second+toneLength, length)
}

func TestClipIsVP8WithOneKeyframe(t *testing.T) {
	clip := Clip()
	require.Len(t, clip, 40)
	for i, s := range clip {
		// RFC 6386, section 9.1: the lowest bit of the frame tag is 0 in a keyframe alone, which
		// has a start code after the tag.
		require.Equal(t, i == 0, s.Data[0]&1 == 0, "frame %d", i)
	}
	require.Equal(t, []byte{0x9d, 0x01, 0x2a}, clip[0].Data[3:6])
	require.EqualValues(t, 320, int(clip[0].Data[6])|int(clip[0].Data[7])<<8)
}

// tape records what is played.
type tape struct {
	samples []client.Sample
	ask     chan struct{}
}

func (r *tape) WriteSample(s client.Sample) error { r.samples = append(r.samples, s); return nil }
func (r *tape) KeyframeRequests() <-chan struct{} { return r.ask }

func TestClipBeginsAgainWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, done := &tape{ask: make(chan struct{}, 1)}, make(chan error)
		go func() { done <- PlayClip(ctx, r) }()
		time.Sleep(clipFrame*5 + clipFrame/2)
		synctest.Wait()
		require.Len(t, r.samples, 6)
		r.ask <- struct{}{}
		time.Sleep(clipFrame * 2)
		cancel()
		require.NoError(t, <-done)
		require.Equal(t, Clip()[0].Data, r.samples[6].Data)
		require.Equal(t, Clip()[1].Data, r.samples[7].Data)
	})
}
