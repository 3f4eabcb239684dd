//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// videoCodecs are those that the SFU knows the layers of, as the SDK names them.
var videoCodecs = []string{"vp8", "vp9", "h264", "av1"}

// coders is what a browser says of itself: the codecs that it encodes and decodes.
type coders struct{ Sends, Receives []string }

const codersNow = `const list = (o) => [...new Set(o.getCapabilities('video').codecs.map((c) => c.mimeType.toLowerCase().replace('video/', '')))];
	return { sends: list(RTCRtpSender), receives: list(RTCRtpReceiver) };`

// sight is what a person was shown of somebody's video for a while.
type sight struct {
	by     *person
	id     string
	Codec  string  `json:"codec"`
	Width  float64 `json:"width"`
	Frames float64 `json:"frames"`
	Gap    float64 `json:"gap"` // ms, the longest without a new frame
}

// publishes has a person send a camera with a codec, in the place of the one before, and gives the track's id.
func (p *person) publishes(c *cluster, codec string, camera map[string]any) (track string) {
	p.t.Helper()
	p.eval(nil, `const { capture } = await import(args[0]);
		[...participant.room.publications].find((p) => p.kind === 'video')?.stop();
		await participant.room.publish(await capture('camera', args[2]), { source: 'camera', codec: args[1] });`, c.Gateways[0]+"/sdk/orama.js", codec, camera)
	return p.sendsTrack("")
}

// sendsTrack waits until a person's camera is a track of the room, and another one than before.
func (p *person) sendsTrack(before string) (track string) {
	p.t.Helper()
	id := `[...participant.room.publications].find((p) => p.kind === 'video')?.id`
	p.until(10*time.Second, "the camera is published", "("+id+" ?? args[0]) !== args[0]", before)
	p.eval(&track, "return "+id)
	return track
}

// shows waits until the people are shown tracks in a codec and a size, each by its id, then looks at all for a while.
func (m *meeting) shows(tracks map[*person][]string, codec string, width int, while time.Duration) {
	m.t.Helper()
	for p, ids := range tracks {
		p.until(15*time.Second, "frames of "+codec, `(async () => {
			const all = await participant.frames();
			for (const id of args[0]) {
				const f = all[id];
				if (!(f?.frames > 0 && f.codec === args[1] && f.width === args[2])) return id + ': ' + JSON.stringify(f);
			}
			return true;
		})()`, ids, codec, width)
		m.t.Logf("%d %s sees all", time.Now().UnixMilli()%1000000, p.user)
	}
	for _, s := range m.look(tracks, while) {
		m.t.Logf("%s saw %s: %s, %.0f pixels wide, %.0f frames in %v, longest gap %.0f ms", s.by.user, s.id, s.Codec, s.Width, s.Frames, while, s.Gap)
		require.Equal(m.t, codec, s.Codec)
	}
}

// look has the people watch tracks for a while: of each something new comes all the time.
func (m *meeting) look(tracks map[*person][]string, while time.Duration) (out []sight) {
	m.t.Helper()
	began := time.Now()
	for p, ids := range tracks {
		p.eval(nil, "participant.looking = participant.lookAt(...args)", ids, while.Milliseconds(), 25*len(ids))
	}
	for p, ids := range tracks {
		var all []sight
		p.eval(&all, "return participant.looking")
		for n, s := range all {
			s.by, s.id = p, ids[n]
			gap := time.Duration(s.Gap * float64(time.Millisecond))
			if s.Frames == 0 || gap > time.Second && gap > held(m.t, time.Second, began) {
				m.t.Errorf("%s is shown nothing of %s for %v: %+v", p.user, s.id, gap, s)
			}
			out = append(out, s)
		}
	}
	return out
}

// toAll has everybody in the list be shown one track.
func toAll(people []*person, id string) map[*person][]string {
	out := map[*person][]string{}
	for _, p := range people {
		out[p] = []string{id}
	}
	return out
}

// tracks lists the ids of what a person sends, by source.
func (p *person) tracks(n int) (ids map[string]string) {
	p.t.Helper()
	p.until(20*time.Second, fmt.Sprintf("%d tracks are published", n), "[...participant.room.publications].filter((p) => p.id).length === args[0]", n)
	p.eval(&ids, "return Object.fromEntries([...participant.room.publications].map((p) => [p.source, p.id]))")
	return ids
}

// Two people show a screen beside the camera, and send eight tracks each in all: everybody is shown each of them.
func TestEightTracks(t *testing.T) {
	c := up(t)
	m := c.meeting(t, c.Namespace, "eight")
	m.camera = map[string]any{"width": 160, "height": 90, "frameRate": 5}
	ada, bob := m.enter(chromium, "ada"), m.enter(firefox, "bob")
	m.enter(chromium, "eve")
	began := time.Now()
	ada.eval(nil, "return participant.sendMore(3, 2, false)")
	bob.eval(nil, "return participant.sendMore(3, 2, true)")
	seen := map[*person][]string{}
	for _, from := range []*person{ada, bob} {
		sources := from.tracks(8)
		require.Len(t, sources, 8, "each has a source of its own: %v", sources)
		for _, to := range m.without(from) {
			seen[to] = append(seen[to], slices.Collect(maps.Values(sources))...)
		}
	}
	for p, ids := range seen {
		p.until(20*time.Second, "all of it arrives", `(async () => {
			const all = await participant.frames();
			const missing = args[0].filter((id) => !(all[id]?.frames > 0));
			return missing.length === 0 ? true : missing.join();
		})()`, ids)
	}
	t.Logf("everybody has all of it %s after the first began to send", ms(time.Since(began)))
	all := m.look(seen, 2*time.Second)
	worst := slices.MaxFunc(all, func(a, b sight) int { return cmp.Compare(a.Gap, b.Gap) })
	t.Logf("of %d subscriptions the longest gap within 2 s was %.0f ms: %+v", len(all), worst.Gap, worst)
}

// Whatever codec somebody sends, all who can decode it see it, and who cannot is sent nothing of it: one after another in one room, between
// different browsers, each in two encodings. Then a sender changes its codec without a word, and by a new description with an ICE restart.
func TestCodecs(t *testing.T) {
	c := up(t)
	m := c.meeting(t, c.Namespace, "codecs")
	camera := map[string]any{"width": 640, "height": 360, "frameRate": 10} // what two encodings need
	m.camera = camera
	ada, bob := m.enter(chromium, "ada"), m.enter(firefox, "bob")
	m.camera = map[string]any{"width": 160, "height": 90, "frameRate": 5}
	m.enter(chromium, "eve")
	m.allMeet(30 * time.Second)
	can := map[*person]coders{}
	for _, p := range m.people {
		var has coders
		p.eval(&has, codersNow)
		can[p] = has
	}
	for _, codec := range videoCodecs {
		t.Run(codec, func(t *testing.T) {
			m.in(t)
			shown := map[*person][]string{}
			for _, from := range []*person{ada, bob} {
				if !slices.Contains(can[from].Sends, codec) { // Firefox has H.264 of a plugin that it loads where it has the Internet
					t.Logf("%s cannot send %s, but %s", from.user, codec, strings.Join(can[from].Sends, ", "))
					continue
				}
				id := from.publishes(c, codec, camera)
				for _, to := range m.without(from) {
					if slices.Contains(can[to].Receives, codec) {
						shown[to] = append(shown[to], id)
						continue
					}
					t.Logf("%s cannot receive %s, but %s", to.user, codec, strings.Join(can[to].Receives, ", "))
					defer to.until(time.Second, "nothing is sent that cannot be decoded", "participant.frames().then((all) => !all[args[0]])", id)
				}
				t.Logf("%d published", time.Now().UnixMilli()%1000000)
				from.until(10*time.Second, "two encodings are sent", "(async () => (await (async () => {"+sentNow+"})()).filter((e) => e.active && e.bytes > 0).length >= 2)()")
				t.Logf("%d two encodings", time.Now().UnixMilli()%1000000)
			}
			m.shows(shown, codec, 640, time.Second)
		})
	}
	for _, change := range []struct{ name, script string }{
		{"by itself", `const p = t.sender.getParameters();
			for (const e of p.encodings) e.codec = RTCRtpSender.getCapabilities('video').codecs.find((c) => c.mimeType === 'video/VP9');
			await t.sender.setParameters(p);`},
		{"by renegotiation", `const all = RTCRtpReceiver.getCapabilities('video').codecs;
			t.setCodecPreferences([...all.filter((c) => c.mimeType === 'video/VP9'), ...all.filter((c) => c.mimeType !== 'video/VP9')]);
			pc.restartIce();`},
	} {
		t.Run("change "+change.name, func(t *testing.T) {
			m.in(t)
			id := ada.publishes(c, "vp8", camera)
			m.shows(toAll(m.without(ada), id), "vp8", 640, 300*time.Millisecond)
			asked := at(time.Now())
			ada.eval(nil, `const pc = __probe.live()[0];
				const t = pc.getTransceivers().find((t) => t.sender.track?.kind === 'video' && t.currentDirection === 'sendonly');
				`+change.script)
			id = ada.sendsTrack(id)
			t.Logf("there is a track of another codec %s after the change", ms(at(time.Now()).since(asked)))
			m.shows(toAll(m.without(ada), id), "vp9", 640, time.Second)
		})
	}
}
