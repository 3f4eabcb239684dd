//go:build e2e

package e2e

import (
	"slices"
	"testing"
	"time"
)

// sentNow lists the encodings that a page sends of its camera; not every browser tells in its statistics which are active.
const sentNow = `const out = [];
	for (const pc of __probe.live()) for (const sender of pc.getSenders()) {
		if (sender.track?.kind !== 'video') continue;
		const told = sender.getParameters().encodings;
		for (const s of (await sender.getStats()).values()) {
			if (s.type !== 'outbound-rtp') continue;
			const e = told.find((o) => (o.rid ?? '') === (s.rid ?? '')) ?? told[0];
			out.push({ rid: s.rid ?? '', active: e.active, bytes: s.bytesSent, width: s.frameWidth ?? 0 });
		}
	}
	return out;`

// sends waits until exactly these encodings are active, and until those grow and no other does.
func (p *person) sends(within time.Duration, rids ...string) moment {
	p.t.Helper()
	slices.Sort(rids)
	return p.until(within, "sent are exactly "+joined(rids), `(async () => {
		const now = async () => (async () => {`+sentNow+`})();
		const before = await now();
		await new Promise((r) => setTimeout(r, 700));
		const after = await now();
		const is = after.filter((e) => e.active).map((e) => e.rid).sort().join();
		const grew = after.filter((e) => e.bytes > (before.find((b) => b.rid === e.rid)?.bytes ?? 0)).map((e) => e.rid).sort().join();
		return is === args[0] && grew === args[0] ? true : 'active ' + is + ', sent ' + grew;
	})()`, joined(rids))
}

func joined(rids []string) (s string) {
	for i, r := range rids {
		if i > 0 {
			s += ","
		}
		s += r
	}
	return s
}

// prefer has a person show another's camera so wide; 0 for as wide as it is, less to show nothing of it.
func (p *person) prefer(of *person, width int) {
	p.t.Helper()
	p.eval(nil, `const peer = [...participant.room.peers.values()].find((o) => o.name === args[0]);
		const track = [...peer.tracks.values()].find((t) => t.source === 'camera');
		participant.room.prefer(track.id, args[1] < 0 ? { paused: true } : args[1] ? { max_width: args[1] } : {});`, of.user, width)
}

// sees waits until a person is sent another's camera at a width, and then until a second of new frames of that width has come.
func (p *person) sees(within time.Duration, of *person, width int) {
	p.t.Helper()
	p.until(within, "frames of the width", `(async () => {
		const peer = [...participant.room.peers.values()].find((o) => o.name === args[0]);
		const track = [...(peer?.tracks.values() ?? [])].find((t) => t.source === 'camera');
		const now = async () => [...(await track.receiver.getStats()).values()].find((s) => s.type === 'inbound-rtp');
		const a = await now();
		await new Promise((r) => setTimeout(r, 1000));
		const b = await now();
		return a.frameWidth === args[1] && b.frameWidth === args[1] && b.framesDecoded >= a.framesDecoded + 2
			? true : 'width ' + b.frameWidth + ', frames ' + a.framesDecoded + ' to ' + b.framesDecoded;
	})()`, of.user, width)
}

// A camera goes up in three sizes and comes down in the one that its viewer shows; a size that nobody shows is not sent, and is back when somebody does.
func TestSimulcast(t *testing.T) {
	for _, kind := range []string{chromium, firefox} {
		t.Run(kind, func(t *testing.T) {
			other := map[string]string{chromium: firefox, firefox: chromium}[kind]
			c := up(t)
			m := c.meeting(t, c.Namespace, "simulcast-"+kind)
			m.camera = map[string]any{"width": 960, "height": 540, "frameRate": 5} // as few pixels as three encodings need
			ada := m.enter(kind, "ada")
			m.camera = nil
			ada.until(20*time.Second, "alone, one sends no picture", `(async () => {
				const all = await (async () => {`+sentNow+`})();
				return all.length > 0 && all.every((e) => !e.active);
			})()`)
			bob := m.enter(other, "bob")
			bob.sees(30*time.Second, ada, 960)
			ada.sends(10*time.Second, "q", "h", "f")

			bob.prefer(ada, 300) // a small picture
			bob.sees(10*time.Second, ada, 240)
			ada.sends(10*time.Second, "q")
			bob.prefer(ada, 500)
			bob.sees(10*time.Second, ada, 480)
			ada.sends(10*time.Second, "q", "h")
			bob.prefer(ada, 0)
			asked := at(time.Now())
			back := ada.sends(10*time.Second, "q", "h", "f")
			bob.sees(20*time.Second, ada, 960)
			t.Logf("the largest was sent again %s after somebody showed it", ms(back.since(asked)))

			// The camera is switched off and on, and another takes its place; nothing is negotiated for either.
			ada.eval(nil, "await [...participant.room.publications].find((p) => p.kind === 'video').mute()")
			ada.eval(nil, "await [...participant.room.publications].find((p) => p.kind === 'video').unmute()")
			bob.sees(20*time.Second, ada, 960)
			ada.eval(nil, `const { capture } = await import(args[0]);
				await [...participant.room.publications].find((p) => p.kind === 'video').replace(await capture('camera', { width: 640, height: 360, frameRate: 5 }));`, c.Gateways[0]+"/sdk/orama.js")
			bob.sees(20*time.Second, ada, 640)

			// The next publication has a section of its own.
			ada.eval(nil, `[...participant.room.publications].find((p) => p.kind === 'video').stop();
				const { capture } = await import(args[0]);
				await participant.room.publish(await capture('camera', { width: 960, height: 540, frameRate: 5 }), { source: 'camera' });`, c.Gateways[0]+"/sdk/orama.js")
			bob.sees(20*time.Second, ada, 960)
			ada.sends(10*time.Second, "q", "h", "f")
			bob.prefer(ada, -1) // who shows nothing of it counts for nothing
			ada.sends(10 * time.Second)
		})
	}
}
