// One WebSocket to the gateway: typed frames, pacing, and noticing a dead connection. It knows
// nothing of rooms and never reconnects: the room does.

import { decode, encode, limits, type ClientMessage, type ServerMessage } from './protocol.js';

/** ms between pings; a browser cannot see those of the WebSocket layer. */
const pingEvery = 4000;
/** ms a pong may take before the socket counts as lost. */
const pongWithin = 6000;
/** Frames at once and a second: a little below the server's limits. */
const burst = limits.burst - 10;
const rate = limits.rate - 2;

/** The code that stands for a socket which stopped answering; never on the wire. */
export const closeSilent = 4999;

export interface SocketHandlers {
  opened(): void;
  message(m: ServerMessage): void;
  /** Called once, unless close() was called first. wasOpen false: the upgrade did not happen. */
  closed(code: number, wasOpen: boolean): void;
}

export class SignalSocket {
  private readonly ws: WebSocket;
  private open = false;
  private done = false;
  private readonly queue: string[] = [];
  private budget: number = burst;
  private budgetAt = Date.now();
  private drain: ReturnType<typeof setTimeout> | undefined;
  private pinger: ReturnType<typeof setInterval> | undefined;
  private pingedAt: number | null = null;
  private doubted: ReturnType<typeof setTimeout> | undefined;

  constructor(url: string, token: string, private readonly handlers: SocketHandlers) {
    this.ws = new WebSocket(url, ['Bearer', token]);
    this.ws.onopen = () => this.opened();
    this.ws.onmessage = (e) => this.receive(e.data);
    this.ws.onclose = (e) => this.closed(e.code);
    this.ws.onerror = () => {}; // onclose follows and says more
  }

  /** Sends a frame, later if the server's rate limit asks for it. Frames keep their order. */
  send(m: ClientMessage): void {
    if (this.done) return;
    this.queue.push(encode(m));
    this.flush();
  }

  /** Asks for a sign of life now; without one within ms the socket counts as lost. */
  doubt(ms: number): void {
    if (!this.open || this.done || this.doubted !== undefined) return;
    this.send({ type: 'ping', t: Date.now() });
    this.doubted = setTimeout(() => {
      const ws = this.ws;
      this.closed(closeSilent);
      ws.close();
    }, ms);
  }

  /** Says leave and closes, within this call: it works while the page goes away. */
  leave(): void {
    if (this.done) return;
    if (this.open && this.ws.readyState === WebSocket.OPEN) this.ws.send(encode({ type: 'leave' }));
    this.close();
  }

  /** Closes without another call of the handlers. */
  close(): void {
    if (this.done) return;
    this.finish();
    try {
      this.ws.close(1000);
    } catch {
      // closing twice is no error worth telling
    }
  }

  private opened(): void {
    if (this.done) return;
    this.open = true;
    this.pinger = setInterval(() => this.ping(), pingEvery);
    this.handlers.opened();
    this.flush();
  }

  private receive(data: unknown): void {
    if (this.done) return;
    const m = decode(data);
    if (!m) return; // a newer server may say more than we know
    this.pingedAt = null;
    clearTimeout(this.doubted);
    this.doubted = undefined;
    if (m.type === 'ping') return this.send({ type: 'pong', t: m.t });
    if (m.type === 'pong') return;
    this.handlers.message(m as ServerMessage);
  }

  private closed(code: number): void {
    if (this.done) return;
    const wasOpen = this.open;
    this.finish();
    this.handlers.closed(code, wasOpen);
  }

  // A throttled page may call this a minute late, so the question is whether the last ping was
  // answered, not when something last arrived.
  private ping(): void {
    const now = Date.now();
    if (this.pingedAt === null) {
      this.pingedAt = now;
      return this.send({ type: 'ping', t: now });
    }
    if (now - this.pingedAt < pongWithin) return;
    const ws = this.ws;
    this.closed(closeSilent);
    ws.close();
  }

  private flush(): void {
    if (!this.open || this.done) return;
    const now = Date.now();
    this.budget = Math.min(burst, this.budget + ((now - this.budgetAt) / 1000) * rate);
    this.budgetAt = now;
    while (this.queue.length > 0 && this.budget >= 1) {
      this.budget--;
      this.ws.send(this.queue.shift()!);
    }
    if (this.queue.length > 0 && this.drain === undefined) {
      this.drain = setTimeout(() => {
        this.drain = undefined;
        this.flush();
      }, 1000 / rate);
    }
  }

  private finish(): void {
    this.done = true;
    clearInterval(this.pinger);
    clearTimeout(this.drain);
    clearTimeout(this.doubted);
    this.queue.length = 0;
  }
}
