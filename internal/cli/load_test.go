package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/load"
	"orama.network/orama/internal/operator"
)

func TestLoadTable(t *testing.T) {
	more, apart := 12, 90
	var out bytes.Buffer
	a := &app{out: &out}
	require.NoError(t, a.showLoad(load.Report{Rooms: 2, Publishers: 2, Subscribers: 6, Joined: 7, Failed: 1, DurationS: 8, Interrupted: true, Recoveries: 1,
		Video:       &load.Media{Sent: 1000, SentBPS: 2e6, Received: 2990, Expected: 3000, Lost: 10, Loss: 0.0033, LatencyMS: load.Quantiles{P50: 1.5, P99: 12}},
		Freezes:     load.Freezes{Count: 2, Seconds: 0.5, Share: 0.02},
		JoinMS:      load.Quantiles{Count: 6, P50: 120, P99: 300},
		EstimateBPS: load.Rates{Count: 6, Min: 900_000, P50: 2_000_000, Max: 3_000_000},
		Failures:    []load.Failure{{Reason: "no\x1b[2J room", People: 1}},
		Machine:     load.Machine{CPUs: 2, Used: 0.95, Load: 0.5, Servers: 0.3, Short: true, LateMS: 40, More: &more, Apart: &apart}}))
	text := out.String()
	for _, want := range []string{"7 of 8 people joined", "8s, stopped early", "1000 (2.0 Mbit/s)", "10 (0.3 %)", "1.5 ms", "2, 0.5 s (2.0 %)",
		"p50 120 ms, p99 300 ms", "p50 2.0 Mbit/s, least 900 kbit/s, most 3.0 Mbit/s, of the ways to 6 subscribers", "1 recoveries", "12 more subscribers", "90 in all", "short of CPU", "! 1 people: no[2J room"} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "audio")
	require.Contains(t, progressText(load.Progress{Phase: "measuring", Joined: 3, People: 4, Failed: 1, Left: 9 * time.Second, Loss: 0.0004}), "3 of 4 joined, 1 failed  9s left")
	require.Contains(t, progressText(load.Progress{Phase: "measuring", Estimate: load.Rates{Count: 1, P50: 1_500_000}}), "estimate 1.5 Mbit/s")
}

func TestLoadNamesTheNamespace(t *testing.T) {
	some := map[string]any{"namespaces": []operator.Namespace{{Name: "a", WebRTC: true}, {Name: "b", WebRTC: true}, {Name: "quiet"}}}
	remoteCluster(t, map[string]any{"GET /v1/operator/namespaces": some})
	for flags, want := range map[string]string{"": "a, b", "quiet": "enable webrtc", "mars": "namespace list"} {
		code, _, errOut := run(t, "load", "--env", "devnet", "--namespace", flags)
		require.NotZero(t, code)
		require.Contains(t, errOut, want)
	}
}
