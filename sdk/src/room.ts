// A room as an application sees it: who is here, what they send, what we send, and whether it flows.

import { type Data, DataChannel, type DataOptions } from './data.js';
import { Emitter } from './emitter.js';
import { OramaError } from './errors.js';
import type { Expected, Flow } from './flow.js';
import { capture, type Device, Publication, type PublishOptions } from './media.js';
import { Move } from './move.js';
import { type Down, PeerLink } from './peer.js';
import type {
  ClientMessage, Credentials, Joined, Layer, Peer, PeerQuality, Permissions, Prefer, RoomSettings, ServerMessage, SetRoom, Speakers, Track,
} from './protocol.js';
import { backoff, type RetryPolicy } from './retry.js';
import { gatewayOf, Session, type SessionHandlers, type Transport } from './session.js';
import type { RoomStats } from './stats.js';

export interface JoinOptions {
  room: string;
  /** A JWT, or where to get one: asked again when it expires. */
  token: string | (() => string | Promise<string>);
  /** Shown to the others; at most 128 bytes. */
  name?: string;
  /** Any JSON value of at most 4 KiB, shown to the others. */
  metadata?: unknown;
  /** The ways to a relay to be told of; all that suit a browser when left out. */
  transports?: Transport[];
  /** Receive every track; true unless said otherwise. */
  autoSubscribe?: boolean;
  /** Tracks to send from the first moment, which saves a negotiation. */
  publish?: { track: MediaStreamTrack | Device; options?: PublishOptions }[];
  /** When to try again after a loss. */
  retry?: RetryPolicy;
}

/** 'connected' means that packets flow, not that a socket is open. */
export type RoomState = 'connecting' | 'connected' | 'recovering' | 'closed';

/** A track of somebody else. */
export interface RemoteTrack {
  readonly id: string;
  readonly peerId: string;
  readonly kind: 'audio' | 'video';
  readonly source: string;
  readonly name: string;
  muted: boolean;
  /** Muted by an admin, and only an admin may unmute it. */
  locked: boolean;
  /** Held back by lastN: nothing of it comes until it matters more. */
  held: boolean;
  layers: Layer[];
  /** Set while the track is received. */
  media: MediaStreamTrack | null;
  receiver: RTCRtpReceiver | null;
}

/** Somebody else in the room. */
export interface RemotePeer {
  readonly id: string;
  readonly userId: string;
  name: string;
  metadata: unknown;
  readonly tracks: Map<string, RemoteTrack>;
}

export interface RoomEvents {
  'state': { state: RoomState; error?: OramaError };
  'peer-joined': { peer: RemotePeer };
  /** reason: "left", "lost", "kicked", "room_closed", or "moved" when we are the ones who went. */
  'peer-left': { peer: RemotePeer; reason: string };
  'track-published': { peer: RemotePeer; track: RemoteTrack };
  'track-unpublished': { peer: RemotePeer; track: RemoteTrack };
  /** The track arrives: track.media is set. */
  'track': { peer: RemotePeer; track: RemoteTrack; media: MediaStreamTrack };
  'track-ended': { peer: RemotePeer; track: RemoteTrack };
  'track-muted': { peer: RemotePeer; track: RemoteTrack; muted: boolean };
  /** lastN began or ceased to hold a track back. */
  'track-held': { peer: RemotePeer; track: RemoteTrack; held: boolean };
  /** An admin muted, locked or unmuted a publication of ours. */
  'moderated': { publication: Publication; muted: boolean; locked: boolean; by: string };
  /** Somebody's name or metadata changed. */
  'peer-changed': { peer: RemotePeer };
  /** What a peer may do changed: ours, or, when we are an admin, anybody's. */
  'permissions': { peerId: string; permissions: Permissions; by: string };
  'settings': { settings: RoomSettings };
  /** A publication of ours was muted, unmuted, replaced, or has ended. */
  'local': { publication: Publication };
  /** Loudness by peer id, 0 to 1; ours is among them. */
  'speakers': { levels: { peerId: string; level: number }[] };
  'quality': { peers: PeerQuality[] };
  /** Bits a second that our way down carries, as far as is known, and that we would be sent if it carried all. */
  'bandwidth': { estimate: number; wanted: number };
  'data': { peerId: string; label: string; data: string | ArrayBuffer };
  /** A text that came over the channel 'chat'. */
  'chat': { peer: RemotePeer | undefined; text: string };
  /** Something was refused; the room goes on. */
  'error': { error: OramaError };
}

/** The label of the channel that chat uses; its messages are plain text. */
const chatLabel = 'chat';
/**
 * ms that a new path is given; then the room is joined anew, with a new connection. A path whose end says that it is gone is left
 * at once. One that is silent libwebrtc leaves only when nothing has come over it for 2.5 s and then another second, however
 * good the new one is: a new connection is there sooner.
 */
const restartWithin = 2000;
/** How often that is waited for while checks are answered: then the path may be good, and others silent. */
const patientFor = 6;
/** Tries for another socket of a call that was lost, about a quarter of an hour: calls come back by themselves. */
const recoveryTries = 240;
/** ms added at random before leaving a draining server, so that its peers do not move together. */
const spread = 400;
/** ms for which the old place still has our media once we have everybody's at the new one: others may not have ours yet. */
const lingerFor = 1000;
/** ms before its deadline at which the old place is left for a new one that works, whoever is not there. */
const margin = 500;

/** Enters a room. url is the gateway's base, such as "https://ns-myapp.orama.network", or several of them. */
export async function join(url: string | string[], options: JoinOptions): Promise<Room> {
  const room = new Room(url, options);
  await room.open();
  return room;
}

export class Room extends Emitter<RoomEvents> {
  /** Our own ids in the room; they change when the room is joined anew. */
  peerId = '';
  userId = '';
  permissions: Permissions = { publish: false, subscribe: false, data: false, admin: false };
  settings: RoomSettings = { locked: false, max_participants: 0 };

  private session: Session;
  private move: Move | null = null;
  private moveBy: ReturnType<typeof setTimeout> | undefined;
  private linger: (() => void) | null = null; // ends what is left of the old place
  private readonly wasCalled = new Map<string, string>(); // by their ids at the old place, those who came from there
  private readonly members = new Map<string, RemotePeer>();
  private readonly ours = new Set<Publication>();
  private readonly channels = new Set<DataChannel>();
  private downs: Down[] = [];
  private lostPeers = new Set<string>();
  private wishes = new Map<string, Omit<Prefer, 'type' | 'track_id'>>(); // by track, as told last
  private chosen = new Map<string, boolean>(); // by track, whether it was asked for or refused
  private levels: NonNullable<Speakers['levels']> = [];
  private heldIds: string[] = [];
  private videos: number | null = null;
  private shownAs: { name?: string; metadata?: unknown } = {};
  private untold = new Set<string>(); // tracks whose wishes were said while the socket was lost; '': what goes for all
  private credentials: { value: Credentials; expires: number } | null = null;
  private link: PeerLink | null = null;
  private flow: Flow = 'unknown';
  private everConnected = false;
  private shown: RoomState = 'connecting';
  private recovery: ReturnType<typeof setTimeout> | undefined;
  private refusals = 0;
  private why: OramaError | undefined;
  private chatting: DataChannel | null = null;
  private readonly onPageHide = () => this.leave();
  private readonly onOnline = () => this.session.hurry();

  /** Use join(). */
  constructor(url: string | string[], private readonly options: JoinOptions) {
    super();
    const urls = (Array.isArray(url) ? url : [url]).map(gatewayOf).filter((u) => u !== null);
    if (urls.length === 0) throw new OramaError('invalid', 'url is not the base of a gateway, such as https://host');
    this.session = new Session({
      urls,
      room: options.room,
      token: options.token,
      transports: options.transports ?? [],
      join: {
        await_offer: true,
        ...(options.name !== undefined && { name: options.name }),
        ...(options.metadata !== undefined && { metadata: options.metadata }),
        ...(options.autoSubscribe !== undefined && { auto_subscribe: options.autoSubscribe }),
      },
      retry: options.retry ?? backoff({ tries: recoveryTries }),
      firstRetry: options.retry ?? backoff({ tries: 5 }),
    }, this.handlers(() => this.session));
  }

  /** For join(): opens what is to be sent from the start, and enters. */
  async open(): Promise<void> {
    try {
      for (const { track, options } of this.options.publish ?? []) this.ours.add(await this.prepare(track, options));
      addEventListener('pagehide', this.onPageHide);
      addEventListener('online', this.onOnline);
      await this.session.start();
    } catch (e) {
      const error = e instanceof OramaError ? e : new OramaError('failed', 'the room could not be joined', true, { cause: e });
      this.finish(error);
      throw error;
    }
  }

  // What a session tells: it counts while the session is the room's, or the move's.
  private handlers(session: () => Session): SessionHandlers {
    const ours = () => session() === this.session;
    const moving = () => this.move?.session === session();
    return {
      joined: (m) => (ours() ? this.joined(m) : moving() && this.move!.entered(m)),
      message: (m) => (ours() ? this.receive(m) : moving() && this.move!.receive(m)),
      lost: () => (ours() ? this.lost() : moving() ? this.refresh() : session().leave()),
      ended: (error) => (ours() ? this.finish(error) : moving() && this.stay()),
    };
  }

  get name(): string {
    return this.options.room;
  }

  get state(): RoomState {
    return this.shown;
  }

  /** The others, by peer id. */
  get peers(): ReadonlyMap<string, RemotePeer> {
    return this.members;
  }

  /** What we send. */
  get publications(): ReadonlySet<Publication> {
    return this.ours;
  }

  /** What we send on a media section, as stats() names it. */
  publicationOn(mid: string): Publication | undefined {
    return this.link?.publication(mid);
  }

  /** Sends a track, or opens a device and sends that. */
  async publish(track: MediaStreamTrack | Device, options: PublishOptions = {}): Promise<Publication> {
    this.mustBeOpen();
    if (this.session.joined && !this.permissions.publish) throw new OramaError('forbidden', 'the token does not allow publishing');
    const p = await this.prepare(track, options);
    if (this.shown === 'closed') {
      p.stop();
      this.mustBeOpen();
    }
    this.ours.add(p);
    for (const link of this.links()) link.publish(p);
    this.emit('local', { publication: p });
    return p;
  }

  /** Asks for a track: needed with autoSubscribe false, or after unsubscribe. */
  subscribe(trackId: string): void {
    this.chosen.set(trackId, true);
    this.wish(trackId, { type: 'subscribe', track_id: trackId });
  }

  unsubscribe(trackId: string): void {
    this.chosen.set(trackId, false);
    this.wish(trackId, { type: 'unsubscribe', track_id: trackId });
  }

  /** Says how a track is wanted. A paused one uses no bandwidth. */
  prefer(trackId: string, wish: Omit<Prefer, 'type' | 'track_id'>): void {
    this.wishes.set(trackId, wish);
    this.wish(trackId, { type: 'prefer', track_id: trackId, ...wish });
  }

  /** How many videos to receive at most, those that matter most; null: all. See 'track-held'. */
  lastN(videos: number | null): void {
    this.videos = videos;
    if (!this.sendAll({ type: 'last-n', videos })) this.untold.add('');
  }

  /** Changes our own name and metadata; what is left out stays, metadata null ends it. */
  update(shown: { name?: string; metadata?: unknown }): void {
    Object.assign(this.shownAs, shown);
    if (!this.sendAll({ type: 'set-peer', ...shown })) this.untold.add('');
  }

  // --- for admins; what we may not do is told by 'error'

  /** Removes a user with all its peers, and ends its tokens for the room. */
  kick(who: { peerId: string } | { userId: string }, reason?: string): void {
    const id = 'peerId' in who ? { peer_id: who.peerId } : { user_id: who.userId };
    this.sendAll({ type: 'kick', ...id, ...(reason !== undefined && { reason }) });
  }

  /** Mutes or unmutes anybody's track; a locked one its publisher may not unmute. */
  mute(trackId: string, muted: boolean, locked = false): void {
    this.sessionOf(trackId).send({ type: 'mute', track_id: trackId, muted, ...(locked && { locked }) });
  }

  /** Replaces what a peer's user may do, at once. */
  permit(peerId: string, permissions: Permissions): void {
    this.sessionOf(peerId).send({ type: 'permit', peer_id: peerId, permissions });
  }

  /** Locks the room, limits it, or changes its metadata; what is left out stays. */
  configure(settings: Omit<SetRoom, 'type'>): void {
    this.sendAll({ type: 'set-room', ...settings });
  }

  /** Opens a channel to every other peer. */
  data(label: string, options: DataOptions = {}): DataChannel {
    this.mustBeOpen();
    const c = new DataChannel(label, options, () => this.channels.delete(c));
    this.channels.add(c);
    this.link?.openChannel(c);
    return c;
  }

  /** Sends a text to everybody. Opens the channel 'chat' if need be, so call it once with '' to open it early. */
  chat(text: string): void {
    this.chatting ??= this.data(chatLabel);
    if (text) this.chatting.send(text);
  }

  /** The path in use, and every track's numbers since the last call. */
  async stats(): Promise<RoomStats> {
    return (await this.link?.readStats()) ?? { path: null, tracks: [] };
  }

  /** Leaves. It works while the page goes away. */
  leave(): void {
    this.finish();
  }

  // --- membership

  private joined(m: Joined): void {
    if (!m.resumed) this.dropMove();
    this.peerId = m.peer_id;
    this.userId = m.user_id;
    this.permissions = m.permissions;
    if (m.settings) this.settings = m.settings;
    const same = m.resumed && this.link !== null;
    if (!same) this.reset();
    this.syncPeers(m.peers ?? []);
    if (same) {
      this.link!.resume();
      this.tellLate();
    } else this.repeat(this.session);
    if (same && this.flow === 'stalled') this.recover();
    this.refresh();
  }

  // What another connection gave is gone; publications and channels are ours and stay.
  private reset(): void {
    this.link?.close();
    this.link = null;
    this.flow = 'unknown';
    clearTimeout(this.recovery);
    this.recovery = undefined;
    this.downs = [];
    this.levels = [];
    this.heldIds = [];
    this.wishes.clear();
    this.chosen.clear();
    this.untold.clear();
    this.lostPeers.clear();
    for (const id of [...this.members.keys()]) this.removePeer(id, 'moved');
    for (const p of this.ours) p.id = null;
  }

  // Tells a room that is new to us what was asked of the one before.
  private repeat(session: Session): void {
    if (this.videos !== null) session.send({ type: 'last-n', videos: this.videos });
    if (Object.keys(this.shownAs).length > 0) session.send({ type: 'set-peer', ...this.shownAs });
  }

  private syncPeers(peers: Peer[]): void {
    const here = new Set(peers.map((p) => p.peer_id));
    for (const id of [...this.members.keys()]) if (!here.has(id) && !this.move?.crossed.has(id)) this.removePeer(id, 'left');
    for (const p of peers) if (!this.wasCalled.has(p.peer_id)) this.addPeer(p);
    this.matchDowns();
  }

  private addPeer(p: Peer): void {
    if (p.peer_id === this.peerId) return;
    let peer = this.members.get(p.peer_id);
    if (!peer) {
      peer = { id: p.peer_id, userId: p.user_id, name: p.name, metadata: p.metadata, tracks: new Map() };
      this.members.set(peer.id, peer);
      this.emit('peer-joined', { peer });
    } else this.changePeer(peer, p.name, p.metadata);
    const tracks = p.tracks ?? [];
    for (const id of [...peer.tracks.keys()]) if (!tracks.some((t) => t.track_id === id)) this.removeTrack(peer, id);
    for (const t of tracks) this.putTrack(peer, t);
  }

  private changePeer(peer: RemotePeer | undefined, name: string, metadata: unknown): void {
    if (!peer || (peer.name === name && JSON.stringify(peer.metadata) === JSON.stringify(metadata))) return;
    peer.name = name;
    peer.metadata = metadata;
    this.emit('peer-changed', { peer });
  }

  private held(): void {
    const ids = [...this.heldIds, ...(this.move?.held ?? [])];
    for (const peer of this.members.values()) {
      for (const track of peer.tracks.values()) {
        const held = ids.includes(track.id);
        if (track.held === held) continue;
        track.held = held;
        this.emit('track-held', { peer, track, held });
      }
    }
  }

  private permitted(peerId: string, permissions: Permissions, by: string): void {
    if (peerId === this.peerId) this.permissions = permissions;
    this.emit('permissions', { peerId, permissions, by });
  }

  private removePeer(id: string, reason: string): void {
    const peer = this.members.get(id);
    if (!peer) return;
    for (const trackId of [...peer.tracks.keys()]) this.removeTrack(peer, trackId);
    this.members.delete(id);
    this.lostPeers.delete(id);
    this.emit('peer-left', { peer, reason });
  }

  private putTrack(peer: RemotePeer, t: Track): void {
    const known = peer.tracks.get(t.track_id);
    if (known) return this.updateTrack(peer, known, t);
    const track: RemoteTrack = {
      id: t.track_id, peerId: peer.id, kind: t.kind, source: t.source, name: t.name, muted: t.muted,
      locked: t.locked ?? false, held: false, layers: t.layers ?? [], media: null, receiver: null,
    };
    peer.tracks.set(track.id, track);
    this.emit('track-published', { peer, track });
  }

  private updateTrack(peer: RemotePeer, track: RemoteTrack, t: Track): void {
    track.layers = t.layers ?? [];
    const locked = t.locked ?? false;
    if (track.muted === t.muted && track.locked === locked) return;
    track.muted = t.muted;
    track.locked = locked;
    this.emit('track-muted', { peer, track, muted: t.muted });
  }

  private removeTrack(peer: RemotePeer, id: string): void {
    const track = peer.tracks.get(id);
    if (!track) return;
    this.endMedia(peer, track);
    peer.tracks.delete(id);
    this.wishes.delete(id);
    this.chosen.delete(id);
    this.emit('track-unpublished', { peer, track });
  }

  private endMedia(peer: RemotePeer, track: RemoteTrack): void {
    if (!track.media) return;
    track.media = null;
    track.receiver = null;
    this.emit('track-ended', { peer, track });
  }

  // Media and its description arrive apart, in either order.
  private matchDowns(): void {
    const byTrack = new Map([...this.downs, ...(this.move?.downs ?? [])].map((d) => [d.trackId, d]));
    for (const peer of this.members.values()) {
      for (const track of peer.tracks.values()) {
        const down = byTrack.get(track.id);
        if (track.media && track.media !== down?.media) this.endMedia(peer, track);
        if (!down || track.media) continue;
        track.media = down.media;
        track.receiver = down.receiver;
        this.emit('track', { peer, track, media: down.media });
      }
    }
  }

  // --- frames

  private receive(m: ServerMessage): void {
    switch (m.type) {
      case 'turn-credentials':
      case 'refresh-credentials': return this.takeCredentials(m);
      case 'offer': return this.link?.offered(m.sdp, m.tracks ?? []);
      case 'answer': return this.answered(m.sdp, m.tracks);
      case 'ice-candidate': return this.link?.candidate(m.candidate);
      case 'peer-joined':
        this.addPeer(m.peer);
        return this.moved();
      case 'peer-left': return this.peerLeft(m.peer_id, m.reason);
      case 'track-published':
      case 'track-unpublished':
      case 'track-muted': return this.trackChanged(m.type, m.peer_id, m.track, m.type === 'track-muted' ? m.by : undefined);
      case 'held':
        this.heldIds = m.track_ids ?? [];
        return this.held();
      case 'wanted': return this.link?.want(m.tracks ?? []);
      case 'peer-changed': return this.changePeer(this.members.get(m.peer_id), m.name, m.metadata);
      case 'permissions-changed': return this.permitted(m.peer_id, m.permissions, m.by);
      case 'room-changed':
        this.settings = m.settings;
        return this.emit('settings', { settings: m.settings });
      case 'speakers':
        this.levels = m.levels ?? [];
        return this.speak();
      case 'bandwidth': return this.emit('bandwidth', { estimate: m.estimate, wanted: m.wanted });
      case 'quality': return this.qualityChanged(m.peers ?? []);
      case 'server-draining': return this.drained(m.deadline_ms, m.reconnect);
      case 'kicked': this.why = new OramaError('kicked', m.reason || 'removed from the room'); return;
      case 'room-closed': this.why = new OramaError('room_closed', m.reason || 'the room was closed'); return;
      case 'error': return this.refused(new OramaError(m.code, m.message, m.retryable));
      default: return;
    }
  }

  private trackChanged(type: 'track-published' | 'track-unpublished' | 'track-muted', peerId: string, t: Track, by?: string): void {
    if (peerId === this.peerId) return this.ownTrack(type, t, by);
    const peer = this.members.get(peerId);
    if (!peer) return;
    if (type === 'track-unpublished') return this.removeTrack(peer, t.track_id);
    this.putTrack(peer, t);
    this.matchDowns();
  }

  private ownTrack(type: string, t: Track, by?: string): void {
    if (type === 'track-muted' && by) {
      const publication = [...this.ours].find((o) => o.id === t.track_id);
      if (publication) this.emit('moderated', { publication, muted: t.muted, locked: t.locked ?? false, by });
      return;
    }
    if (type === 'track-unpublished') {
      for (const o of this.ours) if (o.id === t.track_id) o.id = null;
      return;
    }
    if (type !== 'track-published' || t.mid === undefined) return;
    const p = this.link?.publication(t.mid);
    if (!p) return;
    p.id = t.track_id;
    if (t.locked) return this.emit('moderated', { publication: p, muted: t.muted, locked: true, by: '' });
    if (p.muted !== t.muted) this.session.send({ type: 'mute', track_id: p.id, muted: p.muted });
  }

  private qualityChanged(peers: PeerQuality[]): void {
    for (const q of peers) {
      if (q.quality === 'lost') this.lostPeers.add(q.peer_id);
      else this.lostPeers.delete(q.peer_id);
    }
    this.emit('quality', { peers });
  }

  private answered(sdp: string, tracks: Parameters<PeerLink['answered']>[1]): void {
    this.refusals = 0;
    this.link?.answered(sdp, tracks);
  }

  // 'glare' needs nothing: the SFU's offer that won is on its way and rolls ours back.
  private refused(error: OramaError): void {
    if (error.code === 'glare') return;
    if (error.code === 'bad_sdp') {
      if (++this.refusals > 3) return this.rejoin();
      this.link?.refused(500 * 2 ** this.refusals);
    }
    this.emit('error', { error });
  }

  // --- moving: the new place is joined before the old one is left

  private drained(deadlineMs: number, url: string | null): void {
    const { session, peerId } = this;
    const until = Date.now() + deadlineMs;
    setTimeout(() => {
      if (this.shown === 'closed' || this.session !== session || this.peerId !== peerId || this.move) return;
      if (!session.joined || !this.link) return this.rejoin(url);
      this.begin(url, until);
    }, Math.random() * Math.min(spread, deadlineMs / 4));
  }

  private begin(url: string | null, until: number): void {
    this.linger?.();
    const move: Move = new Move(this.peerId, {
      link: (c) => this.connect(c, move.session),
      entered: () => this.repeat(move.session),
      changed: () => this.move === move && this.moved(),
      failed: () => this.move === move && this.stay(),
    });
    move.session = this.session.another(url, this.handlers(() => move.session));
    move.session.movingFrom = this.peerId;
    this.move = move;
    const left = until - Date.now();
    this.moveBy = setTimeout(() => move.flowing && this.change(), left - Math.min(margin, left / 4));
    void move.session.start().catch(() => this.move === move && this.stay());
  }

  // The new place will not do: the old one serves until it ends, and that loss is recovered from as any other. It is left at once if
  // some of its people are shown at the new one already.
  private stay(): void {
    if (this.dropMove()?.length) return this.session.rejoin();
    this.refresh();
  }

  // Ends a move. Gives the ids at the old place of those who came from there; null without a move.
  private dropMove(): string[] | null {
    const move = this.move;
    if (!move) return null;
    this.move = null;
    clearTimeout(this.moveBy);
    move.end();
    move.session.leave();
    move.link?.close();
    const came = [...this.wasCalled.keys()];
    this.wasCalled.clear();
    if (this.shown !== 'closed') for (const id of move.crossed) this.removePeer(id, 'moved');
    return came;
  }

  // Shows who is at the new place as soon as they are there as well as at the old one, and goes when that is everybody.
  private moved(): void {
    const move = this.move;
    if (!move?.joined) return;
    for (const id of [...move.crossed]) {
      if (move.peers.has(id)) continue;
      move.crossed.delete(id);
      this.removePeer(id, 'left');
    }
    for (const p of move.peers.values()) {
      const before = move.crossed.has(p.peer_id) ? undefined : this.formerly(p);
      if (before) this.carry(move, before, p);
      if (!before || this.arrived(move, before)) this.cross(move, p, before);
    }
    this.matchDowns();
    this.held();
    const left = [...this.members.keys()].some((id) => !move.crossed.has(id));
    if (!left && move.flowing) this.change();
  }

  // Who somebody at the new place is at the old one. Only the servers' word for the user counts.
  private formerly(p: Peer): RemotePeer | undefined {
    const peer = this.members.get(p.moving_from ?? '');
    return peer && peer.userId === p.user_id && !this.move?.crossed.has(peer.id) ? peer : undefined;
  }

  // Asks of a track at the new place what was asked of it at the old one.
  private carry(move: Move, before: RemotePeer, p: Peer): void {
    for (const t of p.tracks ?? []) {
      if (this.wishes.has(t.track_id) || this.chosen.has(t.track_id)) continue;
      const was = [...before.tracks.values()].find((o) => o.kind === t.kind && o.source === t.source && o.name === t.name);
      const wish = was && this.wishes.get(was.id);
      const chosen = was && this.chosen.get(was.id);
      if (wish) {
        this.wishes.set(t.track_id, wish);
        move.session.send({ type: 'prefer', track_id: t.track_id, ...wish });
      }
      if (chosen !== undefined) {
        this.chosen.set(t.track_id, chosen);
        move.session.send({ type: chosen ? 'subscribe' : 'unsubscribe', track_id: t.track_id });
      }
    }
  }

  // As much of somebody arrives at the new place as at the old one.
  private arrived(move: Move, before: RemotePeer): boolean {
    const p = [...move.peers.values()].find((o) => o.moving_from === before.id && o.user_id === before.userId);
    return [...before.tracks.values()].every((was) => {
      if (!was.media || was.muted || was.held || this.wishes.get(was.id)?.paused) return true;
      return p?.tracks?.some((t) => t.kind === was.kind && t.source === was.source && t.name === was.name && move.arriving.has(t.track_id));
    });
  }

  private cross(move: Move, p: Peer, before?: RemotePeer): void {
    if (before) {
      this.wasCalled.set(before.id, p.peer_id);
      this.removePeer(before.id, 'moved');
    }
    move.crossed.add(p.peer_id);
    if (p.peer_id !== move.joined!.peer_id) this.addPeer(p);
    this.matchDowns();
  }

  // Somebody who leaves the old place and is at the new one has only gone before us.
  private peerLeft(id: string, reason: string): void {
    const move = this.move;
    const before = this.members.get(id);
    const p = before && move && [...move.peers.values()].find((o) => this.formerly(o) === before);
    if (p) this.cross(move, p, before);
    else this.removePeer(id, reason);
    this.moved();
  }

  // Changes over to the new place. The old one is left a little later.
  private change(): void {
    const move = this.move!;
    const { session, link } = this;
    for (const p of move.peers.values()) if (!move.crossed.has(p.peer_id)) this.cross(move, p, this.formerly(p));
    for (const id of [...this.members.keys()]) if (!move.crossed.has(id)) this.removePeer(id, 'moved');
    this.move = null;
    clearTimeout(this.moveBy);
    clearTimeout(this.recovery);
    this.recovery = undefined;
    move.end();
    const m = move.joined!;
    Object.assign(this, { peerId: m.peer_id, userId: m.user_id, permissions: m.permissions, settings: m.settings ?? this.settings });
    this.session = move.session;
    this.session.movingFrom = '';
    Object.assign(this, { link: move.link, flow: move.flow, downs: move.downs, credentials: move.credentials, levels: move.levels, heldIds: move.held });
    this.refusals = 0;
    this.lostPeers.clear();
    for (const p of this.ours) p.id = move.ids.get(p) ?? null;
    for (const c of this.channels) this.link?.openChannel(c);
    const end = () => {
      clearTimeout(timer);
      this.linger = null;
      session.leave();
      link?.close();
      this.wasCalled.clear();
    };
    const timer = setTimeout(end, lingerFor);
    this.linger = end;
    if (this.flow === 'stalled') this.recover();
    this.refresh();
    if (move.draining) this.drained(Math.max(0, move.draining.until - Date.now()), move.draining.message.reconnect);
  }

  // The socket of the place that counts is gone. A new place that has let us in counts from now on.
  private lost(): void {
    if (this.move?.joined && this.move.link) {
      const old = this.session;
      this.change();
      old.leave();
    } else this.dropMove();
    this.refresh();
  }

  // A new place that has let us in is as good as a new join, and there already.
  private rejoin(url: string | null = null): void {
    if (this.move?.joined && this.move.link) return this.change();
    this.dropMove();
    this.session.rejoin(url);
  }

  private links(): PeerLink[] {
    return [this.link, this.move?.link].filter((l) => l !== null && l !== undefined);
  }

  private sendAll(m: ClientMessage): boolean {
    this.move?.session.send(m);
    return this.session.send(m);
  }

  private wish(trackId: string, m: ClientMessage): void {
    if (!this.sessionOf(trackId).send(m)) this.untold.add(trackId);
  }

  // Says what was wished while the socket was lost, as it was said last.
  private tellLate(): void {
    if (this.untold.delete('')) {
      this.session.send({ type: 'last-n', videos: this.videos });
      if (Object.keys(this.shownAs).length > 0) this.session.send({ type: 'set-peer', ...this.shownAs });
    }
    const here = new Set([...this.members.values()].flatMap((peer) => [...peer.tracks.keys()]));
    for (const id of this.untold) {
      const [chosen, wish, session] = [this.chosen.get(id), this.wishes.get(id), this.sessionOf(id)];
      let told = true;
      if (here.has(id) && chosen !== undefined) told = session.send({ type: chosen ? 'subscribe' : 'unsubscribe', track_id: id });
      if (here.has(id) && wish && chosen !== false) told = session.send({ type: 'prefer', track_id: id, ...wish }) && told;
      if (told) this.untold.delete(id);
    }
  }

  // Where a peer or a track is that the application knows by this id.
  private sessionOf(id: string): Session {
    const move = this.move;
    for (const p of move?.peers.values() ?? []) {
      if (move!.crossed.has(p.peer_id) && (p.peer_id === id || p.tracks?.some((t) => t.track_id === id))) return move!.session;
    }
    return this.session;
  }

  private speak(): void {
    const all = [...this.levels.filter((l) => !this.wasCalled.has(l.peer_id)), ...(this.move?.levels ?? []).filter((l) => this.members.has(l.peer_id))];
    this.emit('speakers', { levels: all.map((l) => ({ peerId: l.peer_id, level: l.level })) });
  }

  // --- media

  private takeCredentials(c: Credentials): void {
    this.credentials = { value: c, expires: Date.now() + c.ttl * 1000 };
    if (this.link) return this.link.setCredentials(c);
    this.link = this.connect(c, this.session);
    for (const c of this.channels) this.link.openChannel(c);
  }

  // A connection to the place of a session. It counts while it is the room's, or the move's.
  private connect(c: Credentials, session: Session): PeerLink {
    const link: PeerLink = new PeerLink(c, {
      send: (m) => session.send(m),
      downs: (list) => this.arrange(link, list),
      data: (peerId, label, data) => this.received(peerId, label, data),
      flow: (state) => {
        if (this.link === link) return this.flowed(state);
        if (this.move?.link !== link) return;
        this.move.flow = state;
        this.moved();
        this.refresh();
      },
      quiet: () => this.link === link && session.doubt(),
      expected: () => (this.link === link ? this.expected() : this.move?.downs.length ? 'media' : 'nothing'),
      failed: (error) => this.emit('error', { error }),
    });
    for (const p of this.ours) link.publish(p);
    return link;
  }

  private arrange(link: PeerLink, list: Down[]): void {
    if (this.link === link) this.downs = list;
    else if (this.move?.link === link) this.move.downs = list;
    else return;
    this.matchDowns();
  }

  private expected(): Expected {
    for (const peer of this.members.values()) {
      if (this.lostPeers.has(peer.id) || this.move?.crossed.has(peer.id)) continue;
      for (const t of peer.tracks.values()) {
        // A still screen sends next to nothing.
        if (t.media && !t.muted && t.source !== 'screen' && !this.wishes.get(t.id)?.paused && !t.held) return 'media';
      }
    }
    for (const p of this.ours) if (!p.muted) return 'reports';
    return 'nothing';
  }

  private flowed(state: Flow): void {
    this.flow = state;
    if (state === 'stalled' && this.move?.flowing) return this.change();
    if (state === 'stalled') {
      this.session.doubt();
      this.recover();
    } else {
      clearTimeout(this.recovery);
      this.recovery = undefined;
    }
    this.refresh();
  }

  // Asks for a new path, and joins anew if it shows no life; while the socket is lost that has to wait for it.
  private recover(): void {
    clearTimeout(this.recovery);
    const link = this.link;
    if (!link || this.flow !== 'stalled' || !this.session.joined) return;
    void this.freshCredentials().then(() => {
      if (this.link === link && this.flow === 'stalled') link.restart();
    });
    const wait = (left: number) => {
      this.recovery = setTimeout(() => {
        if (this.link !== link || this.flow !== 'stalled' || !this.session.joined) return;
        if (link.alive && left > 1) wait(left - 1);
        else this.rejoin();
      }, restartWithin);
    };
    wait(patientFor);
  }

  private async freshCredentials(): Promise<void> {
    if (this.credentials && this.credentials.expires > Date.now()) return;
    try {
      this.takeCredentials(await this.session.credentials());
    } catch {
      // those at hand are tried all the same
    }
  }

  private received(peerId: string, label: string, data: string | ArrayBuffer): void {
    const id = this.wasCalled.get(peerId) ?? peerId;
    if (label === chatLabel && typeof data === 'string') this.emit('chat', { peer: this.members.get(id), text: data });
    this.emit('data', { peerId: id, label, data });
  }

  private async prepare(track: MediaStreamTrack | Device, options: PublishOptions = {}): Promise<Publication> {
    const device = typeof track === 'string' ? track : null;
    const media = typeof track === 'string' ? await capture(track, options.constraints) : track;
    return new Publication(media, {
      changed: (p) => {
        if (p.id !== null) this.session.send({ type: 'mute', track_id: p.id, muted: p.muted });
        const there = this.move?.ids.get(p);
        if (there) this.move!.session.send({ type: 'mute', track_id: there, muted: p.muted });
        this.emit('local', { publication: p });
      },
      replaced: async (p) => {
        await Promise.all(this.links().map((l) => l.replace(p)));
        this.emit('local', { publication: p });
      },
      stopped: (p) => {
        this.ours.delete(p);
        for (const l of this.links()) l.unpublish(p);
        this.emit('local', { publication: p });
      },
    }, device, options);
  }

  // --- state

  private refresh(error?: OramaError): void {
    if (this.shown === 'closed') return;
    const up = (this.session.joined && this.flow === 'flowing') || (this.move?.flowing ?? false);
    this.everConnected ||= up;
    this.show(up ? 'connected' : this.everConnected ? 'recovering' : 'connecting', error);
  }

  private show(state: RoomState, error?: OramaError): void {
    if (state === this.shown) return;
    this.shown = state;
    this.emit('state', error ? { state, error } : { state });
  }

  private finish(error?: OramaError): void {
    if (this.shown === 'closed') return;
    this.dropMove();
    this.linger?.();
    this.session.leave();
    removeEventListener('pagehide', this.onPageHide);
    removeEventListener('online', this.onOnline);
    clearTimeout(this.recovery);
    this.link?.close();
    this.link = null;
    for (const p of [...this.ours]) p.stop();
    this.show('closed', this.why ?? error);
  }

  private mustBeOpen(): void {
    if (this.shown === 'closed') throw new OramaError('closed', 'the room was left');
  }
}

export type { Data };
