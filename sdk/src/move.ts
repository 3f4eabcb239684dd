// A move to another server while the old one still serves us: who and what is at the new place, until the room
// changes over to it. It shows nothing to the application.

import type { Flow } from './flow.js';
import type { Publication } from './media.js';
import type { Down, PeerLink } from './peer.js';
import type { Credentials, Joined, Peer, ServerDraining, ServerMessage, Speakers, Track } from './protocol.js';
import type { Session } from './session.js';

/** ms between looks at what arrives at the new place. */
const lookEvery = 100;

export interface MoveHandlers {
  /** Makes the connection to the new place, with all that we publish. */
  link(credentials: Credentials): PeerLink;
  /** The new place has let us in: what was asked of the old one is to be told. */
  entered(): void;
  /** Somebody or something is there that was not, or arrives. */
  changed(): void;
  /** The new place will not do. */
  failed(): void;
}

export class Move {
  session!: Session;
  link: PeerLink | null = null;
  flow: Flow = 'unknown';
  /** Set once we are in, and kept as it changes. */
  joined: Joined | null = null;
  credentials: { value: Credentials; expires: number } | null = null;
  downs: Down[] = [];
  held: string[] = [];
  levels: NonNullable<Speakers['levels']> = [];
  /** The new place is to be left as well. */
  draining: { message: ServerDraining; until: number } | null = null;
  /** Everybody else there. */
  readonly peers = new Map<string, Peer>();
  /** Of these, who is shown to the application already. */
  readonly crossed = new Set<string>();
  /** Our publications' ids there. */
  readonly ids = new Map<Publication, string>();
  /** Tracks of which something has come. */
  readonly arriving = new Set<string>();
  private readonly timer: ReturnType<typeof setInterval>;

  /** from: our peer id at the old place. */
  constructor(private readonly from: string, private readonly on: MoveHandlers) {
    this.timer = setInterval(() => void this.look(), lookEvery);
  }

  /** We are in and packets flow. */
  get flowing(): boolean {
    return this.session.joined && this.flow === 'flowing';
  }

  /** Stops looking; session and link live on. */
  end(): void {
    clearInterval(this.timer);
  }

  entered(m: Joined): void {
    // Whoever is there as its old self has been led in a circle; and a second joined that resumes nothing is another peer's.
    if (this.joined && !m.resumed || m.peers?.some((p) => p.peer_id === this.from)) return this.on.failed();
    this.joined = m;
    this.peers.clear();
    for (const p of m.peers ?? []) this.peers.set(p.peer_id, p);
    if (m.resumed) this.link?.resume();
    else this.on.entered();
    this.on.changed();
  }

  receive(m: ServerMessage): void {
    const joined = this.joined;
    if (!joined) return;
    switch (m.type) {
      case 'turn-credentials':
      case 'refresh-credentials':
        this.credentials = { value: m, expires: Date.now() + m.ttl * 1000 };
        if (this.link) return this.link.setCredentials(m);
        this.link = this.on.link(m);
        return;
      case 'offer': return this.link?.offered(m.sdp, m.tracks ?? []);
      case 'answer': return this.link?.answered(m.sdp, m.tracks);
      case 'ice-candidate': return this.link?.candidate(m.candidate);
      case 'wanted': return this.link?.want(m.tracks ?? []);
      case 'peer-joined': this.peers.set(m.peer.peer_id, m.peer); break;
      case 'peer-left': this.peers.delete(m.peer_id); break;
      case 'peer-changed': this.change(m.peer_id, (p) => ({ ...p, name: m.name, metadata: m.metadata })); break;
      case 'track-published':
      case 'track-unpublished':
      case 'track-muted':
        if (m.peer_id === joined.peer_id) return this.own(m.type, m.track);
        this.change(m.peer_id, (p) => ({ ...p, tracks: withTrack(p.tracks ?? [], m.track, m.type !== 'track-unpublished') }));
        break;
      case 'held': this.held = m.track_ids ?? []; break;
      case 'speakers': this.levels = m.levels ?? []; return;
      case 'permissions-changed':
        if (m.peer_id === joined.peer_id) joined.permissions = m.permissions;
        return;
      case 'room-changed': joined.settings = m.settings; return;
      case 'server-draining': this.draining = { message: m, until: Date.now() + m.deadline_ms }; return;
      case 'error':
        if (m.code === 'bad_sdp') this.link?.refused(500);
        return;
      default: return;
    }
    this.on.changed();
  }

  private change(id: string, f: (p: Peer) => Peer): void {
    const p = this.peers.get(id);
    if (p) this.peers.set(id, f(p));
  }

  private own(type: string, t: Track): void {
    const p = type === 'track-published' && t.mid !== undefined ? this.link?.publication(t.mid) : undefined;
    if (!p) return;
    this.ids.set(p, t.track_id);
    if (p.muted !== t.muted && !t.locked) this.session.send({ type: 'mute', track_id: t.track_id, muted: p.muted });
  }

  private async look(): Promise<void> {
    const link = this.link;
    if (!link || this.downs.length === 0) return;
    const before = this.arriving.size;
    for (const id of await link.arriving().catch(() => [])) this.arriving.add(id);
    if (this.arriving.size > before) this.on.changed();
  }
}

function withTrack(tracks: Track[], t: Track, there: boolean): Track[] {
  const i = tracks.findIndex((o) => o.track_id === t.track_id);
  if (!there) return tracks.filter((_, at) => at !== i);
  return i < 0 ? [...tracks, t] : tracks.with(i, t);
}
