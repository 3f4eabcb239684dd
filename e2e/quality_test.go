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
	Server    string  `json:"server"`
	Rate      float64 `json:"frames_per_second"`
	Width     float64 `json:"width"`
	Freezes   float64 `json:"freezes"`
	Frozen    float64 `json:"frozen_percent"`
	Concealed float64 `json:"concealed_percent"`
	Lost      float64 `json:"lost_percent"`
	Kbps      float64 `json:"kbit_per_second"`
	Buffer    float64 `json:"jitter_buffer_ms"`
}

func between(access, server string, a, b seen) row {
	over := func(x, y float64) float64 {
		if y == 0 {
			return 0
		}
		return x / y
	}
	s := (b.At - a.At) / 1000
	return row{
		Access: access, Server: server,
		Rate: (b.Frames - a.Frames) / s, Width: b.Width, Freezes: b.Freezes - a.Freezes, Frozen: 100 * (b.Frozen - a.Frozen) / s,
		Concealed: 100 * over(b.Concealed-a.Concealed, b.Samples-a.Samples), Kbps: (b.Bytes - a.Bytes) * 8 / 1000 / s,
		Lost:   100 * over(b.Lost-a.Lost, b.Lost-a.Lost+b.Packets-a.Packets),
		Buffer: 1000 * over(b.Buffered-a.Buffered, b.Emitted-a.Emitted),
	}
}

func (r row) String() string {
	return fmt.Sprintf("| %s | %s | %.1f | %.0f | %.0f | %.1f | %.1f | %.1f | %.0f | %.0f |",
		r.Access, r.Server, r.Rate, r.Width, r.Freezes, r.Frozen, r.Concealed, r.Lost, r.Kbps, r.Buffer)
}

// contender is a server that carries calls between a publisher behind a good access and a viewer behind a bad one. Each
// call is a fresh one, so that no row has what an earlier one left, and no two servers' calls share the machine.
type contender struct {
	name string
	call func() (eve *page, hangUp func())
}

var (
	publisherCamera = map[string]any{"width": 1280, "height": 720, "frameRate": 30}
	viewerCamera    = map[string]any{"width": 160, "height": 90, "frameRate": 5}
)

// orama is the lab's own cluster as a contender.
func (l *lab) orama(t testing.TB, publisher, viewer *cluster) contender {
	t.Helper()
	return contender{name: "Orama", call: func() (eve *page, hangUp func()) {
		here, there := publisher.meeting(t, "myapp", "quality"), viewer.meeting(t, "myapp", "quality")
		here.camera, there.camera = publisherCamera, viewerCamera
		people := []*person{here.enter(chromium, "ada"), there.enter(chromium, "eve")}
		return people[1].page, func() {
			for _, p := range people {
				p.eval(nil, "participant.room.leave()")
				p.close()
			}
		}
	}}
}

// quality looks at what the viewer of each contender has.
type quality struct {
	t              testing.TB
	contenders     []contender
	settle, window time.Duration
	rows           []row
}

// with has a contender carry a call until f is through.
func (q *quality) with(c contender, f func(eve *page)) {
	q.t.Helper()
	eve, hangUp := c.call()
	defer hangUp()
	eve.until(20*time.Second, "ada is seen and heard", "__probe.meets(1)")
	var ways []pair
	eve.eval(&ways, "return __probe.pairs()")
	for _, w := range ways {
		require.Equal(q.t, "udp", w.RelayProtocol, "%s: what is impaired is UDP: %+v", c.name, w)
	}
	<-time.After(q.settle)
	f(eve)
}

// look is what comes within d.
func (q *quality) look(eve *page, access, server string, d time.Duration) row {
	q.t.Helper()
	var before, after seen
	eve.eval(&before, seenNow)
	<-time.After(d)
	eve.eval(&after, seenNow)
	return between(access, server, before, after)
}

func (q *quality) show(r row) {
	q.rows = append(q.rows, r)
	fmt.Println(r) // a benchmark's log is cut
}

// access shows each contender under one impairment.
func (q *quality) access(i impairment) {
	q.t.Helper()
	for _, c := range q.contenders {
		q.with(c, func(eve *page) {
			lift := i.apply(q.t, viewerNS, viewerPort)
			defer lift()
			<-time.After(q.settle)
			q.show(q.look(eve, i.name, c.name, q.window))
		})
	}
}

// steps shows, from the first second on, a limit that steps down and up again: one contender's whole sequence after the
// other's, and then their rows side by side.
func (q *quality) steps(rates ...string) {
	q.t.Helper()
	const each, of = 5 * time.Second, 4
	all := make([][]row, len(rates)*of)
	for _, c := range q.contenders {
		q.with(c, func(eve *page) {
			for n, rate := range rates {
				lift := impairment{rate: rate}.apply(q.t, viewerNS, viewerPort)
				for k := range of {
					name := fmt.Sprintf("step: %s, to %.0f s", rate, (time.Duration(k+1) * each).Seconds())
					all[n*of+k] = append(all[n*of+k], q.look(eve, name, c.name, each))
				}
				lift()
			}
		})
	}
	for _, beside := range all {
		for _, r := range beside {
			q.show(r)
		}
	}
}

// BenchmarkQuality shows what somebody behind a bad access sees and hears of a publisher behind a good one, and beside it
// what LiveKit makes of the same where it is at hand. It prints the table of docs/media-quality.md, and is no test: whoever
// changes the media path runs it before and after.
func BenchmarkQuality(b *testing.B) {
	if testing.Short() {
		b.Skip("it takes minutes")
	}
	q := &quality{t: b, settle: 10 * time.Second, window: 30 * time.Second}
	if text := os.Getenv("ORAMA_QUALITY_WINDOW"); text != "" {
		var err error
		q.window, err = time.ParseDuration(text)
		require.NoError(b, err)
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
	publisher, viewer := l.cluster(b), l.viewer(b)
	q.contenders = []contender{l.orama(b, publisher, viewer)}
	if k := l.startLiveKit(b, first); k != nil {
		q.contenders = append(q.contenders, k.contender(b, publisher, viewer))
	} else {
		fmt.Printf("LiveKit is not beside us: %s and %s do not say where it is.\n", liveKitEnv, liveKitClientEnv)
	}
	fmt.Println("| access | server | frames/s | width | freezes | frozen % | concealed % | lost % | kbit/s | buffer ms |")
	for _, i := range []impairment{
		{name: "good"}, {name: "1 % loss", loss: 1}, {name: "5 % loss", loss: 5}, {name: "10 % loss", loss: 10},
		{name: "200 ms rtt", each: 100 * time.Millisecond}, {name: "300 kbit/s", rate: "300kbit"},
	} {
		q.access(i)
	}
	q.steps("3mbit", "500kbit", "3mbit")
	if path := os.Getenv("ORAMA_QUALITY_JSON"); path != "" {
		raw, err := json.MarshalIndent(q.rows, "", "  ")
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
