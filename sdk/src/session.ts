// A joined socket, kept joined: tokens, gateways, retries, resuming. It moves frames and knows
// nothing of media.

import { afterClose, type AfterClose, OramaError } from './errors.js';
import type { ClientMessage, Credentials, Join, Joined, ServerMessage } from './protocol.js';
import type { RetryPolicy } from './retry.js';
import { closeSilent, SignalSocket } from './socket.js';

/** ms from dialling to joined. */
const joinWithin = 10_000;
/** ms until the next gateway is tried beside the one that has not opened yet: a dead host does not refuse, it is silent. */
const stagger = 300;
/** Gateways that are tried beside each other. */
const racers = 4;
/** ms in which a socket has to show life once media has stopped. */
const lifeWithin = 800;
/** ms a question over HTTP may take. */
const askWithin = 5000;
/** Gateways that are remembered. */
const maxGateways = 20;
/** A token this close to its end, in ms, is not worth using. */
const tokenMargin = 10_000;

export type Transport = 'udp' | 'tcp' | 'tls' | 'dtls';

export interface SessionOptions {
  /** Gateways' base URLs, tried in turn. */
  urls: string[];
  room: string;
  token: string | (() => string | Promise<string>);
  transports: Transport[];
  /** The join frame, but for what the session fills in. */
  join: Omit<Join, 'type' | 'room' | 'resume'>;
  retry: RetryPolicy;
  /** For the first join alone. */
  firstRetry: RetryPolicy;
}

export interface SessionHandlers {
  joined(m: Joined): void;
  message(m: ServerMessage): void;
  /** The socket is gone; another is on its way. */
  lost(): void;
  /** There will be no other. */
  ended(error: OramaError): void;
}

/** Why a try failed, and what to do about it. */
class Failed extends Error {
  constructor(readonly next: AfterClose, readonly error: OramaError, readonly waitMs = 0) {
    super(error.message);
  }
}

export class Session {
  private socket: SignalSocket | null = null;
  private resume = '';
  private gateway = 0;
  private tokenInUse = '';
  private renew = false; // the token in use was refused
  private joinedNow = false;
  private known = false; // joined at least once
  private left = false;
  /** Who we are at the place that we move from; sent with a join. */
  movingFrom = '';
  private abandon: (() => void) | null = null; // of the sockets that are being opened
  private run = 0; // of connect; a newer one ends the older
  private wake: (() => void) | null = null;

  constructor(private readonly options: SessionOptions, private readonly on: SessionHandlers) {}

  get joined(): boolean {
    return this.joinedNow;
  }

  /** The first join. */
  start(): Promise<void> {
    return this.connect(this.options.firstRetry);
  }

  /** Sends, if the room would hear it now. */
  send(m: ClientMessage): boolean {
    if (!this.joinedNow || !this.socket) return false;
    this.socket.send(m);
    return true;
  }

  /** Another session of the same room, with what is known of gateways and tokens; url is the gateway to begin with. */
  another(url: string | null, on: SessionHandlers): Session {
    const base = gatewayOf(url);
    // A page of https: may not call http:.
    const first = base && (base.startsWith('https:') || !this.base().startsWith('https:')) ? base : this.base();
    const urls = [first, ...this.options.urls.filter((u) => u !== first)];
    const s = new Session({ ...this.options, urls, firstRetry: this.options.retry }, on);
    s.tokenInUse = this.tokenInUse;
    s.known = true;
    return s;
  }

  /** Leaves for good, within this call. */
  leave(): void {
    this.left = true;
    this.run++;
    this.drop('leave');
    this.wake?.();
  }

  /** Joins anew as a new peer, at the gateway given or at the next. */
  rejoin(url: string | null = null): void {
    this.drop('leave');
    this.resume = this.movingFrom = '';
    const base = gatewayOf(url);
    if (base) {
      const known = this.options.urls.indexOf(base);
      this.gateway = known >= 0 ? known : this.options.urls.push(base) - 1;
    }
    this.again();
  }

  /** Ends the wait for the next try: the network is back. */
  hurry(): void {
    this.wake?.();
  }

  /** Media has stopped: the socket may be gone with it, without a word. */
  doubt(): void {
    if (this.joinedNow) this.socket?.doubt(lifeWithin);
  }

  /** Asks the gateway for credentials of its own accord. */
  async credentials(): Promise<Credentials> {
    const res = await this.ask(await this.token());
    if (!res.ok) throw (await problem(res)).error;
    return (await res.json()) as Credentials;
  }

  private drop(how: 'leave' | 'close'): void {
    this.joinedNow = false;
    this.abandon?.();
    this.socket?.[how]();
    this.socket = null;
  }

  private again(): void {
    this.on.lost();
    if (this.left) return;
    this.connect(this.options.retry).catch((e: unknown) => {
      if (e instanceof OramaError) this.on.ended(e);
    });
  }

  private async connect(policy: RetryPolicy): Promise<void> {
    const run = ++this.run;
    let wait = 0;
    let last = new OramaError('unreachable', 'the gateway could not be reached', true);
    for (let attempt = 0; ; attempt++) {
      const delay = policy.delay(attempt);
      if (delay === null) throw last;
      await this.sleep(Math.max(delay, wait));
      if (run !== this.run) throw new Failed('stop', last);
      try {
        return await this.dial(run);
      } catch (e) {
        if (run !== this.run) throw e;
        const failed = this.judge(e);
        if (failed.next === 'stop') throw failed.error;
        last = failed.error;
        wait = Math.max(failed.waitMs, failed.next === 'later' ? 1000 : 0);
        this.gateway++;
      }
    }
  }

  // A token that can be renewed is renewed once before its refusal is final.
  private judge(e: unknown): Failed {
    const failed = e instanceof Failed ? e : new Failed('now', asError(e));
    if (!(e instanceof Failed) && !failed.error.retryable) return new Failed('stop', failed.error);
    if (failed.next !== 'new-token') return failed;
    if (typeof this.options.token === 'string' || this.renew) {
      return new Failed('stop', new OramaError('unauthorized', failed.error.message));
    }
    this.renew = true;
    return failed;
  }

  private async dial(run: number): Promise<void> {
    const token = await this.token();
    if (run !== this.run) throw new Failed('stop', new OramaError('left', 'the room was left'));
    return new Promise((resolve, reject) => {
      const order = this.candidates();
      const racing = new Set<SignalSocket>();
      let winner: SignalSocket | null = null;
      let timer = setTimeout(() => late(), joinWithin);
      let beside: ReturnType<typeof setTimeout> | undefined;
      const end = () => {
        clearTimeout(beside);
        order.length = 0;
        for (const s of racing) s.close();
        racing.clear();
      };
      const fail = (f: Failed) => {
        clearTimeout(timer);
        end();
        winner?.close();
        reject(f);
      };
      const late = () => fail(new Failed('now', new OramaError('timeout', 'the server did not answer the join', true)));
      const message = (m: ServerMessage) => {
        if (m.type === 'joined') {
          clearTimeout(timer);
          this.entered(m);
          resolve();
        } else if (m.type === 'error' && !this.joinedNow) {
          fail(new Failed(m.retryable ? 'later' : 'stop', new OramaError(m.code, m.message, m.retryable)));
        } else this.on.message(m);
      };
      const next = () => {
        clearTimeout(beside);
        const gateway = order.shift();
        if (gateway === undefined) return;
        if (order.length > 0) beside = setTimeout(next, stagger);
        const socket: SignalSocket = new SignalSocket(this.signalURL(gateway), token, {
          opened: () => {
            winner = this.socket = socket;
            this.gateway = gateway;
            racing.delete(socket);
            end();
            clearTimeout(timer);
            timer = setTimeout(late, joinWithin);
            socket.send({ type: 'join', room: this.options.room, ...this.options.join, ...this.who });
          },
          message,
          closed: (code) => {
            racing.delete(socket);
            if (socket !== winner) {
              if (order.length > 0) return next();
              if (racing.size > 0 || winner) return;
              clearTimeout(timer);
              return void this.diagnose(token).then(reject, reject);
            }
            clearTimeout(timer);
            if (this.joinedNow && this.socket === socket) return this.lost(code);
            reject(toFailed(code));
          },
        });
        racing.add(socket);
      };
      this.abandon = end;
      next();
    });
  }

  // Which gateways to try, by their place in urls: one until there was a call, then others beside it, because people wait.
  private candidates(): number[] {
    const n = this.options.urls.length;
    return Array.from({ length: this.known ? Math.min(n, racers) : 1 }, (_, i) => (this.gateway + i) % n);
  }

  private entered(m: Joined): void {
    this.joinedNow = this.known = true;
    this.renew = false;
    this.resume = m.resume;
    this.learn(m.gateways ?? []);
    this.on.joined(m);
  }

  // Other gateways of the cluster, for when this one is lost. A page of https: may not call http:.
  private learn(urls: string[]): void {
    const secure = this.base().startsWith('https:');
    for (const url of urls.slice(0, maxGateways)) {
      const base = gatewayOf(url);
      if (!base || this.options.urls.includes(base) || this.options.urls.length >= maxGateways) continue;
      if (!secure || base.startsWith('https:')) this.options.urls.push(base);
    }
  }

  private lost(code: number): void {
    this.joinedNow = false;
    this.socket = null;
    if (code === closeSilent) this.gateway++; // what fell silent will not answer now
    const failed = toFailed(code);
    if (failed.next === 'stop') return this.on.ended(failed.error);
    if (failed.next === 'new-token') {
      const judged = this.judge(failed);
      if (judged.next === 'stop') return this.on.ended(judged.error);
    }
    this.again();
  }

  private base(): string {
    return this.options.urls[this.gateway % this.options.urls.length]!;
  }

  private signalURL(gateway: number): string {
    const url = new URL(`${this.options.urls[gateway]!}/v1/webrtc/signal`);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    url.searchParams.set('room', this.options.room);
    if (this.options.transports.length > 0) url.searchParams.set('transports', this.options.transports.join(','));
    return url.href;
  }

  private get who(): Partial<Join> {
    if (this.resume) return { resume: this.resume };
    return this.movingFrom ? { moving_from: this.movingFrom } : {};
  }

  private async token(): Promise<string> {
    const source = this.options.token;
    if (typeof source === 'string') this.tokenInUse = source;
    else if (this.renew || !this.tokenInUse || expiry(this.tokenInUse) - Date.now() < tokenMargin) {
      this.tokenInUse = await source();
    }
    const only = claims(this.tokenInUse)?.webrtc?.room;
    if (only && only !== this.options.room) throw new OramaError('forbidden', 'the token is for another room');
    return this.tokenInUse;
  }

  private ask(token: string): Promise<Response> {
    const url = new URL(`${this.base()}/v1/webrtc/turn/credentials`);
    if (this.options.transports.length > 0) url.searchParams.set('transports', this.options.transports.join(','));
    return fetch(url, { method: 'POST', headers: { Authorization: `Bearer ${token}` }, signal: AbortSignal.timeout(askWithin) });
  }

  // A browser does not say why an upgrade was refused, so the same gateway is asked something
  // that it answers with a reason.
  private async diagnose(token: string): Promise<Failed> {
    try {
      const res = await this.ask(token);
      if (!res.ok) return await problem(res);
    } catch {
      // no answer: unreachable
    }
    return new Failed('now', new OramaError('unreachable', 'the gateway could not be reached', true));
  }

  private sleep(ms: number): Promise<void> {
    if (ms === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.wake?.(), ms);
      this.wake = () => {
        clearTimeout(timer);
        this.wake = null;
        resolve();
      };
    });
  }
}

function toFailed(code: number): Failed {
  const { next, error } = afterClose(code);
  return new Failed(next, error);
}

function asError(e: unknown): OramaError {
  return e instanceof OramaError ? e : new OramaError('unreachable', 'no token could be had', true, { cause: e });
}

/** Reads an application/problem+json answer. */
async function problem(res: Response): Promise<Failed> {
  const body = (await res.json().catch(() => null)) as { code?: unknown; detail?: unknown; title?: unknown } | null;
  const text = [body?.detail, body?.title].find((v) => typeof v === 'string') as string | undefined;
  const code = typeof body?.code === 'string' ? body.code : `http_${res.status}`;
  const wait = Number(res.headers.get('Retry-After') ?? 0) * 1000 || 0;
  const retryable = res.status >= 500 || res.status === 429 || res.status === 408;
  const next: AfterClose = res.status === 401 ? 'new-token' : retryable ? 'later' : 'stop';
  return new Failed(next, new OramaError(res.status === 401 ? 'unauthorized' : code, text ?? `the gateway answered ${res.status}`, retryable), wait);
}

interface Claims {
  exp?: number;
  webrtc?: { room?: string };
}

function claims(token: string): Claims | null {
  try {
    return JSON.parse(atob(token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/'))) as Claims;
  } catch {
    return null; // not ours to judge
  }
}

/** ms since the epoch */
function expiry(token: string): number {
  const exp = claims(token)?.exp;
  return typeof exp === 'number' ? exp * 1000 : Infinity;
}

/** The gateway's base of a URL of any kind; null for none or a strange one. */
export function gatewayOf(url: string | null): string | null {
  if (!url || !URL.canParse(url)) return null;
  const u = new URL(url);
  const protocol = { 'ws:': 'http:', 'wss:': 'https:', 'http:': 'http:', 'https:': 'https:' }[u.protocol];
  if (!protocol) return null;
  return `${protocol}//${u.host}${u.pathname.replace(/\/v1\/webrtc\/signal$/, '').replace(/\/+$/, '')}`;
}
