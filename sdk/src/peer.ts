// One RTCPeerConnection to the SFU: the polite side of perfect negotiation, local tracks on their
// media sections, down tracks by mid. It knows nothing of rooms, sockets or retries.

import type { DataChannel } from './data.js';
import { OramaError } from './errors.js';
import { type Flow, type Expected, FlowWatch, type Sample } from './flow.js';
import type { Publication } from './media.js';
import type { CandidateInit, ClientMessage, Credentials, TrackRef, Wanted } from './protocol.js';
import { counters, type RoomStats, StatsReader } from './stats.js';

/** ms between looks at the counters. */
const watchEvery = 250;

/** A track that the SFU sends. */
export interface Down {
  mid: string;
  trackId: string;
  peerId: string;
  media: MediaStreamTrack;
  receiver: RTCRtpReceiver;
}

export interface PeerHandlers {
  send(m: ClientMessage): void;
  /** The complete list of what the SFU sends, after every negotiation. */
  downs(list: Down[]): void;
  data(peerId: string, label: string, data: string | ArrayBuffer): void;
  flow(state: Flow): void;
  /** Nothing has come for a suspiciously long time; once a silence. */
  quiet(): void;
  /** What ought to arrive now. */
  expected(): Expected;
  failed(error: OramaError): void;
}

export class PeerLink {
  private readonly pc: RTCPeerConnection;
  private readonly ups = new Map<Publication, RTCRtpTransceiver>();
  /** Sections on which we may send: our own, and those that the SFU offers to receive on. */
  private readonly slots = new Set<RTCRtpTransceiver>();
  /** Sections of our own with simulcast, and how many encodings each was made with: that cannot be changed later. */
  private readonly layered = new Map<RTCRtpTransceiver, number>();
  /** By mid, the rids that somebody wants; all of them of a section that is not named. */
  private wanted = new Map<string, string[]>();
  private refs: TrackRef[] = [];
  private work: Promise<void> = Promise.resolve();
  private started = false; // the SFU's first offer has been answered
  private closed = false;
  private needed = false; // a change waits to be offered
  private restarting = false; // a restart was asked for and not answered yet
  private doubted = false; // this silence was told of
  private holdUntil = 0; // ms since the epoch
  private held: ReturnType<typeof setTimeout> | undefined;
  private readonly watch = new FlowWatch();
  private readonly stats = new StatsReader();
  private readonly timer: ReturnType<typeof setInterval>;

  constructor(credentials: Credentials, private readonly on: PeerHandlers) {
    this.pc = new RTCPeerConnection(configuration(credentials));
    this.pc.onnegotiationneeded = () => this.negotiate();
    this.pc.onicecandidate = (e) => {
      on.send({ type: 'ice-candidate', candidate: e.candidate ? (e.candidate.toJSON() as CandidateInit) : null });
    };
    this.pc.oniceconnectionstatechange = () => void this.look();
    this.pc.onconnectionstatechange = () => void this.look();
    this.pc.ondatachannel = (e) => this.receiveFrom(e.channel);
    this.timer = setInterval(() => void this.look(), watchEvery);
  }

  /** Takes the SFU's offer and answers; an offer of our own that it crosses is rolled back. */
  offered(sdp: string, refs: TrackRef[]): void {
    this.enqueue(async () => {
      await this.pc.setRemoteDescription({ type: 'offer', sdp });
      this.refs = refs;
      this.findSlots(sdp);
      this.needed = false; // the browser asks again if the answer leaves something to say
      await this.pc.setLocalDescription();
      this.started = true;
      this.sendDescription('answer');
      this.tellDowns();
    });
  }

  /** Takes the answer to our offer; a late one to an offer rolled back is dropped. */
  answered(sdp: string, refs: TrackRef[] | undefined): void {
    this.enqueue(async () => {
      if (this.pc.signalingState !== 'have-local-offer') return;
      await this.pc.setRemoteDescription({ type: 'answer', sdp });
      this.restarting = false;
      if (refs) this.refs = refs;
      this.tellDowns();
    });
  }

  candidate(c: CandidateInit | null): void {
    this.enqueue(async () => {
      await this.pc.addIceCandidate(c ?? undefined).catch(() => {}); // one bad candidate is no loss
    });
  }

  /** Takes back our offer, which the SFU could not use, and makes another after so many ms. */
  refused(waitMs: number): void {
    this.holdUntil = Date.now() + waitMs;
    this.enqueue(async () => {
      if (this.pc.signalingState === 'have-local-offer') await this.pc.setLocalDescription({ type: 'rollback' });
    });
    clearTimeout(this.held);
    this.held = setTimeout(() => this.enqueue(() => this.offer()), waitMs);
  }

  /** Sends the offer again that a lost socket may have swallowed. */
  resume(): void {
    this.enqueue(async () => {
      if (this.pc.signalingState === 'have-local-offer') this.sendDescription('offer');
      else await this.offer();
    });
  }

  /** Checks were answered since the last restart. */
  get alive(): boolean {
    return this.watch.alive;
  }

  /** New credentials are for new relays; those in use outlive theirs. */
  setCredentials(c: Credentials): void {
    if (!this.closed) this.pc.setConfiguration(configuration(c));
  }

  /**
   * Looks for a new path. Media goes on over the old one, if it still carries any. Not a second time before the first was
   * answered: each restart begins anew with the second that libwebrtc watches a new path before it changes to it.
   */
  restart(): void {
    if (this.closed || this.restarting) return;
    this.restarting = true;
    this.watch.restart();
    this.pc.restartIce();
  }

  /** Sends a publication. Before the first offer its track waits for a section of that offer. */
  publish(p: Publication): void {
    const stream = new MediaStream([p.media]);
    const encodings = p.encodings();
    if (encodings.length > 0 || p.codec) return this.publishApart(p, encodings, stream);
    if (!this.started) {
      const sender = this.pc.addTrack(p.media, stream);
      this.take(p, this.pc.getTransceivers().find((t) => t.sender === sender)!);
      return;
    }
    const free = this.freeSlot(p.kind);
    if (!free) {
      const t = this.pc.addTransceiver(p.media, { direction: 'sendonly', streams: [stream] });
      if (p.kind === 'audio') favour(t, 'audio/red'); // as the sections that the SFU offers have it
      return this.take(p, t);
    }
    this.take(p, free);
    // A section of the SFU's may carry something down as well, now or later.
    free.direction = free.direction === 'inactive' ? 'sendonly' : 'sendrecv';
    this.enqueue(async () => {
      await free.sender.replaceTrack(p.media);
      await this.tune(p, free); // whatever was sent here before may have been switched off
    });
  }

  // Simulcast needs a section of our own, which we offer: the SFU's offers cannot ask for it (its pion has no words for that), so a
  // browser leaves a section that addTransceiver made out of its answers and asks for an offer afterwards. It is not used again for another
  // publication: the SFU knows encodings by names that browsers send with the first packets of a source alone. So does a codec of one's own choice: a
  // browser sends what comes first in the description of whoever has offered.
  private publishApart(p: Publication, sendEncodings: RTCRtpEncodingParameters[], stream: MediaStream): void {
    const add = (list: RTCRtpEncodingParameters[]) => this.pc.addTransceiver(p.media, { direction: 'sendonly', streams: [stream], ...(list.length > 0 && { sendEncodings: list }) });
    let t: RTCRtpTransceiver;
    try {
      t = add(sendEncodings);
    } catch { // a browser none of whose codecs has layers says so (webrtc-svc)
      t = add(sendEncodings.map((e) => ({ ...e, scalabilityMode: undefined })));
    }
    if (p.codec) favour(t, `video/${p.codec}`);
    if (sendEncodings.length > 0) tellAllocation(t);
    this.ups.set(p, t);
    this.layered.set(t, sendEncodings.length);
  }

  /** Sends the publication's present track, or nothing when it has ended. */
  async replace(p: Publication): Promise<void> {
    const live = p.media.readyState === 'live';
    const t = this.ups.get(p);
    if (!t) return;
    await t.sender.replaceTrack(live ? p.media : null);
    if (live) this.enqueue(() => this.tune(p, t)); // another camera may have another size
  }

  /** Has of video encoded what somebody wants, and nothing else. */
  want(tracks: NonNullable<Wanted['tracks']>): void {
    this.wanted = new Map(tracks.map((t) => [t.mid, t.rids ?? []]));
    this.enqueue(async () => {
      for (const [p, t] of this.ups) await this.tune(p, t);
    });
  }

  // Brings a sender's encodings to what is wanted of them and to the size of the picture. What a browser will not have stays as it was.
  private async tune(p: Publication, t: RTCRtpTransceiver): Promise<void> {
    if (p.kind !== 'video') return; // sound goes on, whoever listens
    const params = t.sender.getParameters();
    const all = params.encodings ?? [];
    const rids = t.mid === null ? undefined : this.wanted.get(t.mid);
    const meant = new Map(p.encodings(this.layered.get(t) ?? 1).map((e) => [e.rid, e]));
    let changed = false;
    for (const e of all) {
      const to = meant.get(e.rid ?? '');
      const active = (to?.active ?? true) && (!rids || (all.length > 1 ? rids.includes(e.rid ?? '') : rids.length > 0));
      const scale = to?.scaleResolutionDownBy ?? e.scaleResolutionDownBy;
      const maxBitrate = to?.maxBitrate ?? e.maxBitrate;
      if (e.active === active && e.maxBitrate === maxBitrate && e.scaleResolutionDownBy === scale) continue;
      changed = true;
      e.active = active;
      if (maxBitrate !== undefined) e.maxBitrate = maxBitrate;
      if (scale !== undefined) e.scaleResolutionDownBy = scale;
    }
    if (changed) await t.sender.setParameters(params).catch(() => {});
  }

  unpublish(p: Publication): void {
    const t = this.ups.get(p);
    if (!t || this.closed) return;
    this.ups.delete(p);
    t.direction = t.direction === 'sendonly' ? 'inactive' : 'recvonly';
    this.enqueue(() => t.sender.replaceTrack(null));
  }

  /** The publication that is sent on a section. */
  publication(mid: string): Publication | undefined {
    for (const [p, t] of this.ups) if (t.mid === mid) return p;
    return undefined;
  }

  /** The tracks of which a frame or, of sound, a packet has come. */
  async arriving(): Promise<string[]> {
    if (this.closed) return [];
    const { tracks } = new StatsReader().read(await this.pc.getStats(), (mid) => this.named(mid));
    return tracks.filter((t) => t.trackId !== undefined && (t.kind === 'video' ? t.frames : t.packets) > 0).map((t) => t.trackId!);
  }

  openChannel(c: DataChannel): void {
    const channel = this.pc.createDataChannel(c.label, c.init);
    channel.binaryType = 'arraybuffer';
    c.attach(channel);
  }

  async readStats(): Promise<RoomStats> {
    const report = await this.pc.getStats();
    return this.stats.read(report, (mid) => this.named(mid));
  }

  private named(mid: string): { trackId: string; peerId: string } | undefined {
    const r = this.refs.find((ref) => ref.mid === mid);
    return r?.track_id && r.peer_id ? { trackId: r.track_id, peerId: r.peer_id } : undefined;
  }

  close(): void {
    this.closed = true;
    clearInterval(this.timer);
    clearTimeout(this.held);
    this.pc.onnegotiationneeded = this.pc.onicecandidate = this.pc.ondatachannel = null;
    this.pc.oniceconnectionstatechange = this.pc.onconnectionstatechange = null;
    this.pc.close();
  }

  private take(p: Publication, t: RTCRtpTransceiver): void {
    this.ups.set(p, t);
    this.slots.add(t);
  }

  private freeSlot(kind: string): RTCRtpTransceiver | undefined {
    const taken = new Set(this.ups.values());
    return [...this.slots].find((t) =>
      !taken.has(t) && t.receiver.track.kind === kind && t.currentDirection !== 'stopped' && !this.refs.some((r) => r.mid === t.mid));
  }

  private findSlots(sdp: string): void {
    const mids = receiving(sdp);
    for (const t of this.pc.getTransceivers()) {
      if (t.mid !== null && mids.has(t.mid) && !this.refs.some((r) => r.mid === t.mid)) this.slots.add(t);
    }
  }

  // Until the SFU's first offer we have nothing to say: our tracks take its sections.
  private negotiate(): void {
    this.needed = true;
    this.enqueue(() => this.offer());
  }

  private async offer(): Promise<void> {
    if (!this.needed || !this.started || Date.now() < this.holdUntil) return;
    if (this.pc.signalingState !== 'stable') return; // the browser asks again once it is
    this.needed = false;
    await this.pc.setLocalDescription();
    this.sendDescription('offer');
  }

  private sendDescription(type: 'offer' | 'answer'): void {
    const sdp = this.pc.localDescription?.sdp;
    if (sdp) this.on.send({ type, sdp, tracks: this.sent() });
  }

  private sent(): TrackRef[] {
    const out: TrackRef[] = [];
    for (const [p, t] of this.ups) {
      if (t.mid !== null) out.push({ mid: t.mid, source: p.source, name: p.name, muted: p.muted });
    }
    return out;
  }

  private tellDowns(): void {
    const list: Down[] = [];
    const byMid = new Map(this.pc.getTransceivers().map((t) => [t.mid, t]));
    for (const r of this.refs) {
      const t = byMid.get(r.mid);
      if (t && r.track_id && r.peer_id) {
        list.push({ mid: r.mid, trackId: r.track_id, peerId: r.peer_id, media: t.receiver.track, receiver: t.receiver });
      }
    }
    this.on.downs(list);
  }

  private receiveFrom(channel: RTCDataChannel): void {
    channel.binaryType = 'arraybuffer';
    channel.onmessage = (e) => this.on.data(channel.protocol, channel.label, e.data as string | ArrayBuffer);
  }

  private async look(): Promise<void> {
    if (this.closed || !this.started) return;
    const report = await this.pc.getStats().catch(() => null);
    if (!report || this.closed) return;
    const ice = this.pc.iceConnectionState;
    const before = this.watch.state;
    const sample: Sample = {
      at: performance.now(),
      ...counters(report),
      connected: this.pc.connectionState === 'connected',
      broken: ice === 'disconnected' || ice === 'failed',
      expected: this.on.expected(),
    };
    const after = this.watch.update(sample);
    const doubted = this.doubted;
    this.doubted = this.watch.doubtful(sample);
    if (this.doubted && !doubted) this.on.quiet();
    if (after !== before) this.on.flow(after);
  }

  // Descriptions are applied one after another, in the order they came in.
  private enqueue(step: () => Promise<void>): void {
    this.work = this.work.then(async () => {
      if (this.closed) return;
      try {
        await step();
      } catch (cause) {
        if (!this.closed) this.on.failed(new OramaError('bad_sdp', 'the connection could not be negotiated', true, { cause }));
      }
    });
  }
}

function configuration(c: Credentials): RTCConfiguration {
  return {
    iceServers: [{ urls: c.urls ?? [], username: c.username, credential: c.credential }],
    iceTransportPolicy: 'relay',
    bundlePolicy: 'max-bundle',
  };
}

/** Has a codec come first among those that a section is offered with; the others stay, for whoever has no encoder of it. */
function favour(t: RTCRtpTransceiver, mimeType: string): void {
  const known = RTCRtpReceiver.getCapabilities?.(mimeType.split('/')[0]!)?.codecs ?? [];
  const first = known.filter((c) => c.mimeType.toLowerCase() === mimeType);
  if (first.length === 0) return;
  // Of H.264 and VP9 there are profiles: a browser lists first what it does best, and that is what others decode.
  t.setCodecPreferences([...first, ...known.filter((c) => !first.includes(c))]);
}

/** What webrtc-extensions adds, and not every browser has. */
interface ExtensionControl {
  getHeaderExtensionsToNegotiate?(): { uri: string; direction: RTCRtpTransceiverDirection }[];
  setHeaderExtensionsToNegotiate?(list: { uri: string; direction: RTCRtpTransceiverDirection }[]): void;
}

/**
 * Has a browser say with its packets which encodings it sends, where it can: it leaves the largest out when the way up becomes narrow. Otherwise the
 * SFU learns it from their silence, and who watches sees a picture that stands still meanwhile.
 */
function tellAllocation(t: RTCRtpTransceiver & ExtensionControl): void {
  const list = t.getHeaderExtensionsToNegotiate?.();
  const allocation = list?.find((e) => e.uri.includes('/video-layers-allocation'));
  if (!list || !allocation) return;
  allocation.direction = 'sendrecv';
  t.setHeaderExtensionsToNegotiate?.(list);
}

/** The mids of a description's sections on which its sender wants to receive. */
export function receiving(sdp: string): Set<string> {
  const out = new Set<string>();
  for (const section of sdp.split(/^m=/m).slice(1)) {
    const mid = /^a=mid:(\S+)/m.exec(section)?.[1];
    if (mid && /^(audio|video) /.test(section) && /^a=(recvonly|sendrecv)\s*$/m.test(section)) out.add(mid);
  }
  return out;
}
