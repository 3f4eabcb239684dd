package load_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/load"
	"orama.network/orama/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(n *testnet.Net) load.Options {
	return load.Options{URLs: []string{n.URL}, Rooms: 1, Publishers: 1, Subscribers: 2, Video: load.Single, Audio: true, Bitrate: 300_000,
		Transports: []string{"udp"}, Duration: 2 * time.Second, Ramp: 50, TLS: n.ClientTLS(),
		Credential: func(_ context.Context, person int) (load.Credential, error) {
			return load.Credential{Token: fmt.Sprintf("%s/user-%d", testnet.Alpha, person)}, nil
		}}
}

// A small load on a real TURN server and SFU: what is sent arrives, is timed, and nothing is left running.
func TestRun(t *testing.T) {
	n, err := testnet.Start(testnet.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	phases, estimate := map[string]bool{}, load.Rates{}
	r, err := load.Run(t.Context(), options(n), func(p load.Progress) { phases[p.Phase], estimate = true, p.Estimate })
	require.NoError(t, err)
	require.Equal(t, 3, r.Joined)
	require.Empty(t, r.Failures)
	require.False(t, r.Interrupted)
	require.EqualValues(t, 2, r.JoinMS.Count)
	require.Positive(t, r.JoinMS.P50)
	for _, m := range []*load.Media{r.Video, r.Audio} {
		require.Positive(t, m.Sent)
		require.Positive(t, m.Received)
		require.Equal(t, m.Expected, m.Received+m.Lost)
		require.LessOrEqual(t, m.Received, 2*m.Sent+200, "two watch; some was under way when counting began")
		require.Positive(t, m.LatencyMS.Count, "stamps came through")
		require.Positive(t, m.LatencyMS.P50)
		require.LessOrEqual(t, m.LatencyMS.P50, m.LatencyMS.P99)
	}
	require.Equal(t, 2, r.EstimateBPS.Count, "both who watch were told of their way")
	require.Greater(t, r.EstimateBPS.Min, options(n).Bitrate, "nothing is in the way")
	require.True(t, r.EstimateBPS.Min <= r.EstimateBPS.P50 && r.EstimateBPS.P50 <= r.EstimateBPS.Max)
	require.Equal(t, 2, estimate.Count, "and the progress shows it")
	require.True(t, phases["measuring"] && phases["leaving"])
	text, err := json.Marshal(r)
	require.NoError(t, err)
	var shape map[string]any
	require.NoError(t, json.Unmarshal(text, &shape))
	for _, key := range []string{"joined", "failed", "failures", "video", "audio", "freezes", "join_ms", "estimate_bps", "machine", "duration_s"} {
		require.Contains(t, shape, key)
	}
}

// Three encodings go up and one comes down: whole, and the largest as nothing speaks against it.
func TestRunSimulcast(t *testing.T) {
	n, err := testnet.Start(testnet.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	o := options(n)
	o.Video, o.Audio, o.Duration = load.Simulcast, false, 3*time.Second
	r, err := load.Run(t.Context(), o, nil)
	require.NoError(t, err)
	require.Empty(t, r.Failures)
	require.Equal(t, 3, r.Joined)
	require.Positive(t, r.Video.LatencyMS.Count, "whole frames came through")
	each := r.Video.ReceivedBPS / 2
	require.Greater(t, each, 0.75*float64(o.Bitrate), "the largest encoding")
	require.Greater(t, r.Video.SentBPS, 1.25*each, "and more was sent")
}

func TestRunEndsEarly(t *testing.T) {
	n, err := testnet.Start(testnet.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	o := options(n)
	o.Duration, o.Video = time.Hour, load.NoVideo
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := load.Run(ctx, o, func(p load.Progress) {
		if p.Phase == "measuring" {
			cancel()
		}
	})
	require.NoError(t, err)
	require.True(t, r.Interrupted)
	require.Nil(t, r.Video)
	require.Positive(t, r.Audio.Received)
}

func TestNobodyJoins(t *testing.T) {
	o := options(&testnet.Net{URL: "http://127.0.0.1:1"})
	_, err := load.Run(t.Context(), o, nil)
	require.ErrorContains(t, err, "nobody could join")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
}

func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*load.Options){
		"rooms":       func(o *load.Options) { o.Rooms = 0 },
		"publishers":  func(o *load.Options) { o.Publishers = 0 },
		"subscribers": func(o *load.Options) { o.Subscribers = -1 },
		"too many":    func(o *load.Options) { o.Rooms = load.MaxPeople },
		"overflow":    func(o *load.Options) { o.Rooms, o.Subscribers = 1<<40, 1<<40 },
		"video":       func(o *load.Options) { o.Video = "smell" },
		"nothing":     func(o *load.Options) { o.Video, o.Audio = load.NoVideo, false },
		"bitrate":     func(o *load.Options) { o.Bitrate = 1 },
		"duration":    func(o *load.Options) { o.Duration = 0 },
		"ramp":        func(o *load.Options) { o.Ramp = 0 },
		"urls":        func(o *load.Options) { o.URLs = nil },
	} {
		o := options(&testnet.Net{URL: "http://127.0.0.1:1"})
		require.NoError(t, o.Check())
		change(&o)
		require.Equal(t, orama.KindInvalid, orama.KindOf(o.Check()), name)
	}
}
