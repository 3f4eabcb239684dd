// Injected into every page before its own scripts: keeps hold of each RTCPeerConnection that the
// page makes, and answers what the tests ask about media. It changes nothing of the page's own behaviour.
// Times are Date.now(): all pages and the tests share the machine's clock.
(() => {
  const Native = window.RTCPeerConnection;
  const pcs = [];
  const timeline = []; // [when, what] of every connection, for who reads a failure
  window.RTCPeerConnection = class RTCPeerConnection extends Native {
    constructor(...args) {
      super(...args);
      pcs.push(this);
      const told = (what) => timeline.push([Date.now(), what]);
      told('created');
      this.addEventListener('iceconnectionstatechange', () => told(`ice ${this.iceConnectionState}`));
      this.addEventListener('connectionstatechange', () => told(this.connectionState));
      this.addEventListener('signalingstatechange', () => told(this.signalingState));
      this.addEventListener('track', (e) => told(`track ${e.track.kind}`));
    }
  };

  // Every `joined` that the page was told, with whether it resumed a peer.
  const joins = [];
  const sockets = [];
  // What the page was told of its media: [when, message]; the last of it.
  const news = [];
  const NativeSocket = window.WebSocket;
  window.WebSocket = class WebSocket extends NativeSocket {
    constructor(...args) {
      const opening = Date.now();
      super(...args);
      sockets.push({ opening });
      this.addEventListener('message', ({ data }) => {
        if (typeof data !== 'string') return;
        if (/^{"type":"(quality|bandwidth|wanted|held|error)"/.test(data)) news.push([Date.now(), JSON.parse(data)]);
        if (news.length > 2000) news.splice(0, 1000);
        if (!data.startsWith('{"type":"joined"')) return;
        const m = JSON.parse(data);
        joins.push({ at: Date.now(), resumed: m.resumed, peer: m.peer_id, gateway: new URL(this.url).host });
      });
    }
  };

  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

  // Closed connections have no more media to tell of.
  const live = () => pcs.filter((pc) => pc.signalingState !== 'closed');

  async function reports() {
    const all = [];
    for (const [i, pc] of pcs.entries()) {
      if (pc.signalingState === 'closed') continue;
      // One that is closed meanwhile rejects in Chromium; Firefox then never answers.
      const report = await Promise.race([pc.getStats().catch(() => null), sleep(500).then(() => null)]);
      if (report) all.push([i, pc, report]);
    }
    return all;
  }

  // One entry for each track that arrives.
  async function inbound() {
    const out = [];
    for (const [i, , report] of await reports()) {
      for (const s of report.values()) {
        if (s.type !== 'inbound-rtp') continue;
        out.push({
          key: `${i}/${s.ssrc}`, kind: s.kind, track: s.trackIdentifier, frames: s.framesDecoded ?? 0,
          packets: s.packetsReceived ?? 0, lost: s.packetsLost ?? 0, energy: s.totalAudioEnergy ?? 0, level: s.audioLevel ?? 0,
        });
      }
    }
    return out;
  }

  // What a firewall that lets a port through alone leaves of the ways to the relays.
  function confine(pattern) {
    const fits = new RegExp(pattern);
    const left = (c) => c && { ...c, iceServers: c.iceServers.map((s) => ({ ...s, urls: [s.urls].flat().filter((u) => fits.test(u)) })) };
    const Open = RTCPeerConnection;
    window.RTCPeerConnection = class extends Open {
      constructor(c) { super(left(c)); }
      setConfiguration(c) { super.setConfiguration(left(c)); }
    };
  }

  // The selected candidate pair of each connection: where it leaves from, and how.
  async function pairs() {
    const out = [];
    for (const [i, , report] of await reports()) {
      const selected = new Set();
      for (const s of report.values()) {
        if (s.type === 'transport' && s.selectedCandidatePairId) selected.add(report.get(s.selectedCandidatePairId));
        if (s.type === 'candidate-pair' && s.selected) selected.add(s);
      }
      for (const pair of selected) {
        const local = pair && report.get(pair.localCandidateId);
        const remote = pair && report.get(pair.remoteCandidateId);
        if (!local || !remote) continue;
        out.push({
          pc: i, type: local.candidateType, relayProtocol: local.relayProtocol ?? local.protocol, relay: local.address,
          sfu: `${remote.address}:${remote.port}`, state: pair.state, url: local.url ?? '',
        });
      }
    }
    return out;
  }

  // Since when every one of n video tracks has had no newer frame is the age of the n-th newest: its
  // largest value is the longest gap that somebody in the call saw. Keys of a connection that was replaced grow
  // old; the new ones take their place.
  const watched = { video: new Map(), audio: new Map() };
  let watching = null;

  async function sample() {
    const now = Date.now();
    for (const t of await inbound()) {
      const count = t.kind === 'video' ? t.frames : t.packets;
      const had = watched[t.kind].get(t.key);
      // A decoder that is made anew counts from 0 again: that is no new frame, and no gap since 1970 either.
      if (!had || had.count !== count) watched[t.kind].set(t.key, { count, at: count > 0 ? now : had?.at ?? 0, born: had?.born ?? now });
    }
  }

  function lag(kind, n) {
    const newest = [...watched[kind].values()].map((v) => v.at).sort((a, b) => b - a);
    return newest.length < n ? Infinity : Date.now() - newest[n - 1];
  }

  // A page that gets no processor sees a gap that nobody sent. How late each sample came is kept, and taken off
  // the gap it lies in.
  const every = 40; // ms
  const lateness = []; // [when, ms]
  const standstill = (since) => lateness.reduce((sum, [at, ms]) => (at >= since ? sum + ms : sum), 0);

  async function watch(n) {
    await sample();
    const run = { n, worst: { video: 0, audio: 0 }, raw: { video: 0, audio: 0 }, since: Date.now(), on: true };
    watching = run;
    let last = Date.now();
    while (run.on) {
      await sleep(every);
      await sample();
      const now = Date.now();
      lateness.push([now, Math.max(0, now - last - 2 * every)]);
      last = now;
      for (const kind of ['video', 'audio']) {
        const gap = lag(kind, n);
        if (gap <= run.worst[kind]) continue;
        run.raw[kind] = Math.max(run.raw[kind], gap);
        run.worst[kind] = Math.max(run.worst[kind], gap - (Number.isFinite(gap) ? standstill(now - gap) : 0));
      }
    }
  }

  window.__probe = {
    confine,
    pcs, live, inbound, pairs, joins, news, sockets, timeline,

    async until(ms, holds) {
      const end = Date.now() + ms;
      let last;
      do {
        try { last = await holds(); } catch (e) { last = String(e); if (!(e instanceof TypeError)) throw e; }
        if (last && typeof last !== 'string') return { at: Date.now() };
        await sleep(20);
      } while (Date.now() < end);
      return { at: 0, last };
    },

    // How many video tracks decode frames and how many audio tracks carry sound, compared with a moment ago.
    async flowing(over = 250) {
      const before = new Map((await inbound()).map((t) => [t.key, t]));
      await sleep(over);
      const n = { video: 0, audio: 0 };
      for (const t of await inbound()) {
        const b = before.get(t.key);
        if (!b) continue;
        if (t.kind === 'video' && t.frames > b.frames) n.video++;
        if (t.kind === 'audio' && t.packets > b.packets && (t.energy > 0 || t.level > 0)) n.audio++;
      }
      return n;
    },

    // Every one of n others is seen and heard.
    async meets(n) {
      const f = await this.flowing();
      return f.video >= n && f.audio >= n;
    },

    watch(n) { void watch(n); },
    // Gaps since watch() began, in ms; with `stop` it ends.
    gaps(stop) {
      if (stop) watching.on = false;
      return { video: watching.worst.video, audio: watching.worst.audio, raw: Math.max(watching.raw.video, watching.raw.audio), lag: lag('video', watching.n), watched: Date.now() - watching.since };
    },

    // A socket was resumed after a moment.
    resumed: (after) => joins.some((j) => j.at > after && j.resumed),
    // n video tracks that were not there before a moment show frames.
    freshSince: (after, n) => [...watched.video.values()].filter((v) => v.born > after && v.at > 0).length >= n,

    async state() {
      return {
        pcs: pcs.map((pc) => [pc.signalingState, pc.iceConnectionState, pc.connectionState].join('/')),
        pairs: await pairs(),
        joins,
        news: news.slice(-8).map(([when, m]) => `${when % 1e6} ${JSON.stringify(m)}`),
        timeline: timeline.slice(-30).map(([when, what]) => `${when % 1e6} ${what}`),
        events: window.participant?.events,
        inbound: (await inbound()).map((t) => `${t.kind} ${t.track}: ${t.packets} packets, ${t.frames} frames, energy ${t.energy.toFixed(4)}`),
        text: (document.querySelector('[role=alert]')?.textContent ?? '').slice(0, 200),
      };
    },
  };
})();
