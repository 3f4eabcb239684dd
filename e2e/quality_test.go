//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// seen is what a viewer had of a publisher so far, from the browser's own statistics (webrtc-stats).
type seen struct {
	At        float64 `json:"at"`     // ms
	Frames    float64 `json:"frames"` // decoded
	Freezes   float64 `json:"freezes"`
	Frozen    float64 `json:"frozen"` // s
	Samples   float64 `json:"samples"`
	Concealed float64 `json:"concealed"` // of them, without what silence hides
	Bytes     float64 `json:"bytes"`
	Lost      float64 `json:"lost"`
	Packets   float64 `json:"packets"`
	Width     float64 `json:"width"`
	Buffered  float64 `json:"buffered"` // s, of all emitted frames together
	Emitted   float64 `json:"emitted"`
}

const seenNow = `const sum = { at: Date.now(), frames: 0, freezes: 0, frozen: 0, samples: 0, concealed: 0, bytes: 0, lost: 0, packets: 0, width: 0, buffered: 0, emitted: 0 };
	for (const pc of __probe.live()) for (const s of (await pc.getStats()).values()) {
		if (s.type !== 'inbound-rtp') continue;
		sum.bytes += s.bytesReceived; sum.lost += s.packetsLost; sum.packets += s.packetsReceived;
		if (s.kind === 'audio') {
			sum.samples += s.totalSamplesReceived; sum.concealed += s.concealedSamples - s.silentConcealedSamples;
			continue;
		}
		sum.frames += s.framesDecoded; sum.freezes += s.freezeCount; sum.frozen += s.totalFreezesDuration;
		sum.width = Math.max(sum.width, s.frameWidth ?? 0); sum.buffered += s.jitterBufferDelay; sum.emitted += s.jitterBufferEmittedCount;
	}
	return sum;`

// row is one line of docs/media-quality.md.
type row struct {
	Access    string  `json:"access"`
	Rate      float64 `json:"frames_per_second"`
	Width     float64 `json:"width"`
	Freezes   float64 `json:"freezes"`
	Frozen    float64 `json:"frozen_percent"`
	Concealed float64 `json:"concealed_percent"`
	Lost      float64 `json:"lost_percent"`
	Kbps      float64 `json:"kbit_per_second"`
	Buffer    float64 `json:"jitter_buffer_ms"`
}

func between(name string, a, b seen) row {
	over := func(x, y float64) float64 {
		if y == 0 {
			return 0
		}
		return x / y
	}
	s := (b.At - a.At) / 1000
	return row{
		Access: name, Rate: (b.Frames - a.Frames) / s, Width: b.Width, Freezes: b.Freezes - a.Freezes, Frozen: 100 * (b.Frozen - a.Frozen) / s,
		Concealed: 100 * over(b.Concealed-a.Concealed, b.Samples-a.Samples), Kbps: (b.Bytes - a.Bytes) * 8 / 1000 / s,
		Lost:   100 * over(b.Lost-a.Lost, b.Lost-a.Lost+b.Packets-a.Packets),
		Buffer: 1000 * over(b.Buffered-a.Buffered, b.Emitted-a.Emitted),
	}
}

func (r row) String() string {
	return fmt.Sprintf("| %s | %.1f | %.0f | %.0f | %.1f | %.1f | %.1f | %.0f | %.0f |", r.Access, r.Rate, r.Width, r.Freezes, r.Frozen, r.Concealed, r.Lost, r.Kbps, r.Buffer)
}

// BenchmarkQuality shows what somebody behind a bad access sees and hears of a publisher behind a good one. It prints the table
// of docs/media-quality.md, and is no test: whoever changes the media path runs it before and after.
func BenchmarkQuality(b *testing.B) {
	if testing.Short() {
		b.Skip("it takes minutes")
	}
	l := newLab(b)
	l.serveRecords(b)
	l.form(b)
	first := l.hosts[0]
	eventually(b, 30*time.Second, func() string {
		out, errs, code := first.orama(b, "namespace", "create", "myapp", "--json")
		if code != 0 && !strings.Contains(out, "namespace_exists") {
			return errs + out
		}
		return ""
	})
	first.must(b, "namespace", "origins", "myapp", "http://127.0.0.1:8000")
	first.must(b, "namespace", "enable", "webrtc", "--namespace", "myapp")
	l.instancesAre(b, first, 30*time.Second, 2, 3)
	publisher, viewer := l.cluster(b).meeting(b, "myapp", "quality"), l.viewer(b).meeting(b, "myapp", "quality")
	publisher.camera = map[string]any{"width": 1280, "height": 720, "frameRate": 30}
	publisher.enter(chromium, "ada")
	viewer.camera = map[string]any{"width": 160, "height": 90, "frameRate": 5}
	eve := viewer.enter(chromium, "eve")
	eve.until(20*time.Second, "ada is seen and heard", "__probe.meets(1)")

	settle, window := 10*time.Second, 30*time.Second
	if text := os.Getenv("ORAMA_QUALITY_WINDOW"); text != "" {
		var err error
		window, err = time.ParseDuration(text)
		require.NoError(b, err)
	}
	var rows []row
	show := func(r row) {
		rows = append(rows, r)
		fmt.Println(r) // a benchmark's log is cut
	}
	look := func(name string, d time.Duration) {
		var before, after seen
		eve.eval(&before, seenNow)
		<-time.After(d)
		eve.eval(&after, seenNow)
		show(between(name, before, after))
	}
	fmt.Println("| access | frames/s | width | freezes | frozen % | concealed % | lost % | kbit/s | buffer ms |")
	for _, i := range []impairment{
		{name: "good"}, {name: "1 % loss", loss: 1}, {name: "5 % loss", loss: 5}, {name: "10 % loss", loss: 10},
		{name: "200 ms rtt", each: 100 * time.Millisecond}, {name: "300 kbit/s", rate: "300kbit"},
	} {
		lift := i.apply(b, viewerNS, viewerPort)
		<-time.After(settle)
		look(i.name, window)
		lift()
		<-time.After(settle)
	}
	// Every second of a limit that steps down and up again.
	for _, rate := range []string{"3mbit", "500kbit", "3mbit"} {
		lift := impairment{rate: rate}.apply(b, viewerNS, viewerPort)
		for s := 5; s <= 20; s += 5 {
			look(fmt.Sprintf("step: %s, to %d s", rate, s), 5*time.Second)
		}
		lift()
	}
	if path := os.Getenv("ORAMA_QUALITY_JSON"); path != "" {
		raw, err := json.MarshalIndent(rows, "", "  ")
		require.NoError(b, err)
		require.NoError(b, os.WriteFile(path, raw, 0o644))
	}
	b.ReportMetric(0, "ns/op") // the table is what it gives
}

const (
	viewerNS   = "viewer"
	viewerPort = 10
)

// viewer is the cluster as somebody sees it who has an access of his own.
func (l *lab) viewer(t testing.TB) *cluster {
	t.Helper()
	plug(t, viewerNS, viewerPort, fmt.Sprintf(labBridge, viewerPort))
	require.NoError(t, os.MkdirAll("/etc/netns/"+viewerNS, 0o755))
	servers, err := os.ReadFile("/etc/netns/" + labClient + "/resolv.conf")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("/etc/netns/"+viewerNS+"/resolv.conf", servers, 0o644))
	site := listenIn(t, viewerNS, "127.0.0.1:8000")
	srv := &http.Server{Handler: http.FileServer(http.Dir(".")), ReadHeaderTimeout: 5 * time.Second}
	go srv.Serve(site) //nolint:errcheck // ends with Close
	t.Cleanup(func() { srv.Close() })
	c := &cluster{dir: l.hosts[0].dir, host: l.hosts[0], driver: startDriver(t, viewerNS), site: "http://127.0.0.1:8000"}
	t.Cleanup(c.driver.close)
	c.Namespace, c.Gateways = "myapp", []string{"https://ns-myapp." + labDomain}
	return c
}
