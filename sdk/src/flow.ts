// Decides from counters whether media really flows. Pure: the caller measures and acts.

/** What ought to arrive: media of others that nobody muted; else the SFU's reports on ours; else nothing. */
export type Expected = 'media' | 'reports' | 'nothing';

/** One measurement of a connection. */
export interface Sample {
  /** ms, monotonic. */
  at: number;
  /** Grows with everything that arrives beside STUN. */
  received: number;
  /** Grows with every answered STUN check on the selected pair. */
  checks: number;
  /** ICE and DTLS say that they are connected. */
  connected: boolean;
  /** ICE says disconnected or failed. */
  broken: boolean;
  expected: Expected;
}

export type Flow =
  | 'unknown' // nothing has arrived yet
  | 'flowing'
  | 'stalled';

/** ms of silence that count as loss: media comes every 20 to 60 ms, reports about once a second. */
const silence = { media: 900, reports: 3500, nothing: Infinity } as const;
/** The longest pause, in ms, that sparse traffic is granted. */
const longestPause = 2000;
/** ms after which answered checks alone prove the path: then the publisher is silent, not the path. */
const checksSuffice = 3000;
/** ms a connection may take to be made. */
const connectWithin = 8000;

export class FlowWatch {
  state: Flow = 'unknown';
  private startedAt: number | null = null;
  private last: Sample | null = null;
  private growthAt = 0;
  /** Samples since something arrived. */
  private quiet = 0;
  /** The longest recent pause between arrivals, in ms. */
  private pause = 0;
  private provenAt: number | null = null;
  /** Checks alone proved the path, so until something arrives silence says nothing new. */
  private silentPath = false;

  /** Takes the next sample and gives the state. */
  update(s: Sample): Flow {
    const before = this.last ?? s;
    this.last = s;
    this.startedAt ??= s.at;
    if (s.expected !== before.expected) this.expect(s.at);
    const grew = s.received > before.received;
    if (grew) this.grew(s.at);
    else this.quiet++;
    if (s.connected && s.checks > before.checks) this.provenAt ??= s.at;
    return (this.state = this.next(s, grew));
  }

  /** Checks were answered since restart(). */
  get alive(): boolean {
    return this.provenAt !== null;
  }

  /** Half of what would count as loss has passed: time to ask after the socket, which may share the path's fate. */
  doubtful(s: Sample): boolean {
    return this.state === 'flowing' && this.silentFor(s, 0.5);
  }

  /** Forgets the proofs: the path is being replaced. */
  restart(): void {
    this.provenAt = null;
  }

  private next(s: Sample, grew: boolean): Flow {
    switch (this.state) {
      case 'flowing':
        if (!s.broken && !(this.quiet >= 2 && this.silentFor(s, 1))) return 'flowing';
        this.restart();
        return 'stalled';
      case 'unknown':
        if (s.connected && (grew || s.expected !== 'media')) return 'flowing';
        return s.broken || s.at - this.startedAt! > connectWithin ? 'stalled' : 'unknown';
      case 'stalled':
        if (!s.connected || !(grew || this.proven(s))) return 'stalled';
        this.silentPath = !grew;
        return 'flowing';
    }
  }

  // share: of the patience with what is expected. For a loss there are two quiet samples at least, because one late timer
  // proves nothing.
  private silentFor(s: Sample, share: number): boolean {
    const patience = Math.max(silence[s.expected], 2.5 * this.pause);
    return !this.silentPath && s.at - this.growthAt > share * patience;
  }

  private proven(s: Sample): boolean {
    if (this.provenAt === null) return false;
    return s.expected === 'nothing' || s.at - this.provenAt >= checksSuffice;
  }

  // What was usual before says nothing about what is expected now.
  private expect(at: number): void {
    this.growthAt = at;
    this.pause = 0;
    this.quiet = 0;
  }

  private grew(at: number): void {
    if (this.state === 'flowing' && !this.silentPath) {
      // Without a quiet sample in between it was the timer that was late, not the traffic.
      const pause = this.quiet > 0 ? Math.min(at - this.growthAt, longestPause) : 0;
      this.pause = Math.max(pause, this.pause * 0.95);
    }
    this.growthAt = at;
    this.quiet = 0;
    this.silentPath = false;
  }
}
