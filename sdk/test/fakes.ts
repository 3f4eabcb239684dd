// In-memory doubles of what the SDK uses of a browser, and the clock.

import { mock, type TestContext } from 'node:test';
import { encode, decode, type ClientMessage, type ServerMessage } from '../src/protocol.js';

export class FakeSocket {
  static readonly OPEN = 1;
  static all: FakeSocket[] = [];
  /** Refuses every upgrade while set. */
  static refuse = false;
  /** Hosts that are silent: their sockets never open. */
  static dead = new Set<string>();
  /** Pings stay without an answer while set. */
  static deaf = false;
  readyState = 0;
  sent: ClientMessage[] = [];
  closedWith: number | null = null;
  onopen: (() => void) | null = null;
  onmessage: ((e: { data: unknown }) => void) | null = null;
  onclose: ((e: { code: number }) => void) | null = null;
  onerror: (() => void) | null = null;

  constructor(readonly url: string, readonly protocols: string[]) {
    FakeSocket.all.push(this);
    if (FakeSocket.dead.has(new URL(url).host)) return;
    setTimeout(() => (FakeSocket.refuse ? this.drop(1006) : this.open()), 1);
  }

  static get last(): FakeSocket {
    return FakeSocket.all.at(-1)!;
  }

  private open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  send(text: string): void {
    const m = decode(text) as ClientMessage;
    this.sent.push(m);
    if (m.type === 'ping' && !FakeSocket.deaf) queueMicrotask(() => this.say({ type: 'pong', t: m.t }));
  }

  close(code = 1000): void {
    this.readyState = 3;
    this.closedWith ??= code;
  }

  /** The server says something. */
  say(m: ServerMessage): void {
    this.onmessage?.({ data: encode(m) });
  }

  /** The connection ends. */
  drop(code: number): void {
    this.readyState = 3;
    this.onclose?.({ code });
  }

  types(): string[] {
    return this.sent.map((m) => m.type);
  }

  find<T extends ClientMessage['type']>(type: T): Extract<ClientMessage, { type: T }> | undefined {
    return this.sent.findLast((m) => m.type === type) as Extract<ClientMessage, { type: T }> | undefined;
  }
}

export class FakeTrack extends EventTarget {
  enabled = true;
  readyState = 'live';
  contentHint = '';
  /** Too small for simulcast, unless a test says otherwise. */
  constructor(readonly kind: 'audio' | 'video', private readonly size: { width?: number; height?: number } = { width: 300, height: 200 },
    readonly id = crypto.randomUUID()) {
    super();
  }
  getSettings(): object {
    return this.kind === 'video' ? this.size : {};
  }
  stop(): void {
    this.readyState = 'ended';
  }
}

export interface FakeEncoding {
  rid?: string;
  active: boolean;
  maxBitrate?: number;
  scaleResolutionDownBy?: number;
}

class FakeSender {
  /** How often parameters were set. */
  set = 0;
  constructor(public track: FakeTrack | null, private encodings: FakeEncoding[] = [{ active: true }]) {}
  getParameters(): { encodings: FakeEncoding[] } {
    return structuredClone({ encodings: this.encodings });
  }
  async setParameters(p: { encodings: FakeEncoding[] }): Promise<void> {
    if (p.encodings.length !== this.encodings.length) throw new Error('InvalidModificationError');
    this.set++;
    this.encodings = structuredClone(p.encodings);
  }
  /** The rids that are sent; "" without simulcast. */
  get active(): string[] {
    return this.encodings.filter((e) => e.active).map((e) => e.rid ?? '');
  }
  async replaceTrack(t: FakeTrack | null): Promise<void> {
    this.track = t;
  }
}

export class FakeTransceiver {
  mid: string | null = null;
  currentDirection: string | null = null;
  /** What setCodecPreferences was told, in MIME types. */
  codecs: string[] = [];
  readonly receiver: { track: FakeTrack };
  constructor(
    private readonly pc: FakePC, readonly kind: 'audio' | 'video', readonly sender: FakeSender,
    private way: string, readonly byAddTrack: boolean,
  ) {
    this.receiver = { track: new FakeTrack(kind) };
  }
  get direction(): string {
    return this.way;
  }
  set direction(d: string) {
    this.way = d;
    this.pc.need();
  }
  /** Header extensions, as Chromium has them: not all are offered unless asked for. */
  extensions = [
    { uri: 'urn:ietf:params:rtp-hdrext:sdes:mid', direction: 'sendrecv' },
    { uri: 'http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00', direction: 'stopped' },
  ];
  getHeaderExtensionsToNegotiate(): { uri: string; direction: string }[] {
    return this.extensions.map((e) => ({ ...e }));
  }
  setHeaderExtensionsToNegotiate(list: { uri: string; direction: string }[]): void {
    this.extensions = list;
  }
  setCodecPreferences(list: { mimeType: string }[]): void {
    this.codecs = list.map((c) => c.mimeType);
  }
}

class FakeChannel {
  readyState = 'connecting';
  binaryType = '';
  protocol = '';
  bufferedAmount = 0;
  sent: unknown[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((e: { data: unknown }) => void) | null = null;
  constructor(readonly label: string, readonly init: unknown) {}
  send(d: unknown): void {
    this.sent.push(d);
  }
  close(): void {
    this.readyState = 'closed';
  }
  open(): void {
    this.readyState = 'open';
    this.onopen?.();
  }
}

/** A section of a fake description: "mid kind direction", one a line. */
export interface Section {
  mid: string;
  kind: 'audio' | 'video';
  direction: string;
}

export function sdp(...sections: Section[]): string {
  return ['v=0', ...sections.map((s) => `m=${s.kind} 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:${s.mid}\r\na=${s.direction}\r`)].join('\n');
}

function parse(text: string): Section[] {
  return text.split(/^m=/m).slice(1).map((s) => ({
    kind: s.startsWith('audio') ? 'audio' : 'video',
    mid: /a=mid:(\S+)/.exec(s)![1]!,
    direction: /a=(sendrecv|sendonly|recvonly|inactive)/.exec(s)![1]!,
  }));
}

/** Enough of RTCPeerConnection: signalling states, implicit rollback, sections, negotiation needed. */
export class FakePC {
  static all: FakePC[] = [];
  signalingState = 'stable';
  iceConnectionState = 'new';
  connectionState = 'new';
  localDescription: { type: string; sdp: string } | null = null;
  transceivers: FakeTransceiver[] = [];
  channels: FakeChannel[] = [];
  log: string[] = [];
  restarts = 0;
  received = 0;
  checks = 0;
  /** Frames that were decoded, by mid. */
  frames = new Map<string, number>();
  onnegotiationneeded: (() => void) | null = null;
  onicecandidate: ((e: { candidate: null }) => void) | null = null;
  oniceconnectionstatechange: (() => void) | null = null;
  onconnectionstatechange: (() => void) | null = null;
  ondatachannel: ((e: { channel: FakeChannel }) => void) | null = null;
  private needed = false;
  private nextMid = 100;
  /** Transceivers that have a mid by our outstanding offer alone. */
  private offered: FakeTransceiver[] = [];

  constructor(public config: { iceServers: { urls: string[] }[]; iceTransportPolicy: string; bundlePolicy: string }) {
    FakePC.all.push(this);
  }

  static get last(): FakePC {
    return FakePC.all.at(-1)!;
  }

  setConfiguration(c: FakePC['config']): void {
    this.log.push('setConfiguration');
    this.config = c;
  }

  addTrack(track: FakeTrack): FakeSender {
    const t = this.add(track, 'sendrecv', true);
    return t.sender;
  }

  addTransceiver(track: FakeTrack, init: { direction: string; sendEncodings?: FakeEncoding[] }): FakeTransceiver {
    return this.add(track, init.direction, false, track.kind, init.sendEncodings?.map((e) => ({ ...e, active: true })));
  }

  private add(track: FakeTrack | null, direction: string, byAddTrack: boolean, kind = track?.kind, encodings?: FakeEncoding[]): FakeTransceiver {
    const t = new FakeTransceiver(this, kind!, new FakeSender(track, encodings), direction, byAddTrack);
    this.transceivers.push(t);
    this.need();
    return t;
  }

  getTransceivers(): FakeTransceiver[] {
    return this.transceivers;
  }

  createDataChannel(label: string, init: unknown): FakeChannel {
    const c = new FakeChannel(label, init);
    this.channels.push(c);
    return c;
  }

  restartIce(): void {
    this.restarts++;
    this.need();
  }

  need(): void {
    this.needed = true;
    queueMicrotask(() => this.fire());
  }

  private fire(): void {
    if (this.needed && this.signalingState === 'stable') this.onnegotiationneeded?.();
  }

  async setRemoteDescription(d: { type: string; sdp: string }): Promise<void> {
    this.log.push(`remote ${d.type}`);
    if (d.sdp === 'bad') throw new Error('bad sdp');
    if (d.type === 'answer' && this.signalingState !== 'have-local-offer') throw new Error('no offer');
    if (d.type === 'offer') {
      if (this.signalingState === 'have-local-offer') for (const t of this.offered) t.mid = null; // rolled back
      for (const s of parse(d.sdp)) this.section(s);
    }
    this.offered = [];
    this.signalingState = d.type === 'offer' ? 'have-remote-offer' : 'stable';
    if (d.type === 'answer') this.fire();
  }

  private section(s: Section): void {
    if (this.transceivers.some((t) => t.mid === s.mid)) return;
    const wants = s.direction === 'recvonly' || s.direction === 'sendrecv';
    const free = this.transceivers.find((t) => wants && t.byAddTrack && t.mid === null && t.kind === s.kind);
    const t = free ?? this.add(null, 'recvonly', false, s.kind);
    t.mid = s.mid;
  }

  async setLocalDescription(d?: { type: string }): Promise<void> {
    if (d?.type === 'rollback') {
      this.log.push('rollback');
      this.signalingState = 'stable';
      return this.need();
    }
    const answer = this.signalingState === 'have-remote-offer';
    this.log.push(`local ${answer ? 'answer' : 'offer'}`);
    if (!answer) this.offered = this.transceivers.filter((t) => t.mid === null);
    for (const t of this.offered) t.mid = String(this.nextMid++);
    this.needed = answer && this.transceivers.some((t) => t.mid === null);
    this.signalingState = answer ? 'stable' : 'have-local-offer';
    this.localDescription = { type: answer ? 'answer' : 'offer', sdp: `${answer ? 'answer' : 'offer'} ${this.log.length}` };
    if (answer) queueMicrotask(() => this.fire());
  }

  async addIceCandidate(): Promise<void> {}

  async getStats(): Promise<Map<string, object>> {
    return new Map<string, object>([
      ['T', { id: 'T', type: 'transport', timestamp: Date.now(), selectedCandidatePairId: 'P', packetsReceived: this.received }],
      ['P', { id: 'P', type: 'candidate-pair', timestamp: Date.now(), responsesReceived: this.checks }],
      ...[...this.frames].map(([mid, n]): [string, object] =>
        [`I${mid}`, { id: `I${mid}`, type: 'inbound-rtp', kind: 'video', mid, timestamp: Date.now(), framesDecoded: n }]),
    ]);
  }

  connect(): void {
    this.iceConnectionState = this.connectionState = 'connected';
    this.onconnectionstatechange?.();
  }

  ice(state: string): void {
    this.iceConnectionState = state;
    this.oniceconnectionstatechange?.();
  }

  close(): void {
    this.signalingState = 'closed';
  }
}

/** A page: window events, and whether the gateway answers HTTP. */
export class FakePage extends EventTarget {
  asked: { url: string; headers: Record<string, string> }[] = [];
  answer: () => Response = () => new Response('{}', { status: 200 });
}

/** Puts the fakes in place for one test, with a clock that advance() moves. */
export function browser(t: TestContext): FakePage {
  const page = new FakePage();
  FakeSocket.all = [];
  FakeSocket.refuse = FakeSocket.deaf = false;
  FakeSocket.dead.clear();
  FakePC.all = [];
  mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: 1_700_000_000_000 });
  const before: [string, unknown][] = [];
  const put = (name: string, value: unknown) => {
    before.push([name, (globalThis as Record<string, unknown>)[name]]);
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  };
  put('WebSocket', FakeSocket);
  put('RTCPeerConnection', FakePC);
  const codecs: Record<string, string[]> = { audio: ['opus', 'red', 'PCMU'], video: ['VP8', 'rtx', 'VP9', 'H264', 'H264'] };
  put('RTCRtpReceiver', { getCapabilities: (kind: string) => ({ codecs: codecs[kind]!.map((name) => ({ mimeType: `${kind}/${name}` })) }) });
  put('MediaStream', class { constructor(readonly tracks: unknown[]) {} });
  put('addEventListener', page.addEventListener.bind(page));
  put('removeEventListener', page.removeEventListener.bind(page));
  put('fetch', async (url: URL, init: { headers: Record<string, string> }) => {
    page.asked.push({ url: String(url), headers: init.headers });
    return page.answer();
  });
  mock.method(performance, 'now', () => Date.now());
  mock.method(Math, 'random', () => 0);
  t.after(() => {
    mock.timers.reset();
    mock.restoreAll();
    for (const [name, value] of before) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  });
  return page;
}

/** Lets everything run that waits for nothing but promises. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise<void>((r) => setImmediate(r));
}

/** Moves the clock in small steps, and lets promises run in between. */
export async function advance(ms: number, step = 50): Promise<void> {
  await settle();
  for (let done = 0; done < ms; done += step) {
    mock.timers.tick(Math.min(step, ms - done));
    await settle();
  }
}
