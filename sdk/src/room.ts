// A room as an application sees it: who is here, what they send, what we send, and whether it flows.

import { type Data, DataChannel, type DataOptions } from './data.js';
import { Emitter } from './emitter.js';
import { OramaError } from './errors.js';
import type { Expected, Flow } from './flow.js';
import { capture, type Device, Publication, type PublishOptions } from './media.js';
import { type Down, PeerLink } from './peer.js';
import type {
  Credentials, Joined, Layer, Peer, PeerQuality, Permissions, Prefer, RoomSettings, ServerMessage, SetRoom, Track,
} from './protocol.js';
import { backoff, type RetryPolicy } from './retry.js';
import { gatewayOf, Session, type Transport } from './session.js';
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

  private readonly session: Session;
  private readonly members = new Map<string, RemotePeer>();
  private readonly ours = new Set<Publication>();
  private readonly channels = new Set<DataChannel>();
  private downs: Down[] = [];
  private lostPeers = new Set<string>();
  private paused = new Set<string>();
  private videos: number | null = null;
  private shownAs: { name?: string; metadata?: unknown } = {};
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
    }, {
      joined: (m) => this.joined(m),
      message: (m) => this.receive(m),
      lost: () => this.refresh(),
      ended: (error) => this.finish(error),
    });
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
    this.link?.publish(p);
    this.emit('local', { publication: p });
    return p;
  }

  /** Asks for a track: needed with autoSubscribe false, or after unsubscribe. */
  subscribe(trackId: string): void {
    this.session.send({ type: 'subscribe', track_id: trackId });
  }

  unsubscribe(trackId: string): void {
    this.session.send({ type: 'unsubscribe', track_id: trackId });
  }

  /** Says how a track is wanted. A paused one uses no bandwidth. */
  prefer(trackId: string, wish: Omit<Prefer, 'type' | 'track_id'>): void {
    if (wish.paused) this.paused.add(trackId);
    else this.paused.delete(trackId);
    this.session.send({ type: 'prefer', track_id: trackId, ...wish });
  }

  /** How many videos to receive at most, those that matter most; null: all. See 'track-held'. */
  lastN(videos: number | null): void {
    this.videos = videos;
    this.session.send({ type: 'last-n', videos });
  }

  /** Changes our own name and metadata; what is left out stays, metadata null ends it. */
  update(shown: { name?: string; metadata?: unknown }): void {
    Object.assign(this.shownAs, shown);
    this.session.send({ type: 'set-peer', ...shown });
  }

  // --- for admins; what we may not do is told by 'error'

  /** Removes a user with all its peers, and ends its tokens for the room. */
  kick(who: { peerId: string } | { userId: string }, reason?: string): void {
    const id = 'peerId' in who ? { peer_id: who.peerId } : { user_id: who.userId };
    this.session.send({ type: 'kick', ...id, ...(reason !== undefined && { reason }) });
  }

  /** Mutes or unmutes anybody's track; a locked one its publisher may not unmute. */
  mute(trackId: string, muted: boolean, locked = false): void {
    this.session.send({ type: 'mute', track_id: trackId, muted, ...(locked && { locked }) });
  }

  /** Replaces what a peer's user may do, at once. */
  permit(peerId: string, permissions: Permissions): void {
    this.session.send({ type: 'permit', peer_id: peerId, permissions });
  }

  /** Locks the room, limits it, or changes its metadata; what is left out stays. */
  configure(settings: Omit<SetRoom, 'type'>): void {
    this.session.send({ type: 'set-room', ...settings });
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
    this.peerId = m.peer_id;
    this.userId = m.user_id;
    this.permissions = m.permissions;
    if (m.settings) this.settings = m.settings;
    const same = m.resumed && this.link !== null;
    if (!same) this.reset();
    this.syncPeers(m.peers ?? []);
    if (same) this.link!.resume();
    else this.repeat();
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
    this.paused.clear();
    this.lostPeers.clear();
    for (const id of [...this.members.keys()]) this.removePeer(id, 'moved');
    for (const p of this.ours) p.id = null;
  }

  // Tells a room that is new to us what was asked of the one before.
  private repeat(): void {
    if (this.videos !== null) this.session.send({ type: 'last-n', videos: this.videos });
    if (Object.keys(this.shownAs).length > 0) this.session.send({ type: 'set-peer', ...this.shownAs });
  }

  private syncPeers(peers: Peer[]): void {
    const here = new Set(peers.map((p) => p.peer_id));
    for (const id of [...this.members.keys()]) if (!here.has(id)) this.removePeer(id, 'left');
    for (const p of peers) this.addPeer(p);
    this.matchDowns(this.downs);
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

  private held(ids: string[]): void {
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
    this.paused.delete(id);
    this.emit('track-unpublished', { peer, track });
  }

  private endMedia(peer: RemotePeer, track: RemoteTrack): void {
    if (!track.media) return;
    track.media = null;
    track.receiver = null;
    this.emit('track-ended', { peer, track });
  }

  // Media and its description arrive apart, in either order.
  private matchDowns(list: Down[]): void {
    this.downs = list;
    const byTrack = new Map(list.map((d) => [d.trackId, d]));
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
      case 'peer-joined': return this.addPeer(m.peer);
      case 'peer-left': return this.removePeer(m.peer_id, m.reason);
      case 'track-published':
      case 'track-unpublished':
      case 'track-muted': return this.trackChanged(m.type, m.peer_id, m.track, m.type === 'track-muted' ? m.by : undefined);
      case 'held': return this.held(m.track_ids ?? []);
      case 'peer-changed': return this.changePeer(this.members.get(m.peer_id), m.name, m.metadata);
      case 'permissions-changed': return this.permitted(m.peer_id, m.permissions, m.by);
      case 'room-changed':
        this.settings = m.settings;
        return this.emit('settings', { settings: m.settings });
      case 'speakers':
        return this.emit('speakers', { levels: (m.levels ?? []).map((l) => ({ peerId: l.peer_id, level: l.level })) });
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
    this.matchDowns(this.downs);
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
      if (++this.refusals > 3) return this.session.rejoin();
      this.link?.refused(500 * 2 ** this.refusals);
    }
    this.emit('error', { error });
  }

  private drained(deadlineMs: number, url: string | null): void {
    const peerId = this.peerId;
    setTimeout(() => {
      if (this.shown !== 'closed' && this.peerId === peerId) this.session.rejoin(url);
    }, Math.random() * Math.min(spread, deadlineMs / 2));
  }

  // --- media

  private takeCredentials(c: Credentials): void {
    this.credentials = { value: c, expires: Date.now() + c.ttl * 1000 };
    if (this.link) return this.link.setCredentials(c);
    const link = new PeerLink(c, {
      send: (m) => this.session.send(m),
      downs: (list) => this.link === link && this.matchDowns(list),
      data: (peerId, label, data) => this.received(peerId, label, data),
      flow: (state) => this.link === link && this.flowed(state),
      quiet: () => this.session.doubt(),
      expected: () => this.expected(),
      failed: (error) => this.emit('error', { error }),
    });
    this.link = link;
    for (const p of this.ours) link.publish(p);
    for (const c of this.channels) link.openChannel(c);
  }

  private expected(): Expected {
    for (const peer of this.members.values()) {
      if (this.lostPeers.has(peer.id)) continue;
      for (const t of peer.tracks.values()) {
        // A still screen sends next to nothing.
        if (t.media && !t.muted && t.source !== 'screen' && !this.paused.has(t.id) && !t.held) return 'media';
      }
    }
    for (const p of this.ours) if (!p.muted) return 'reports';
    return 'nothing';
  }

  private flowed(state: Flow): void {
    this.flow = state;
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
        else this.session.rejoin();
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
    if (label === chatLabel && typeof data === 'string') this.emit('chat', { peer: this.members.get(peerId), text: data });
    this.emit('data', { peerId, label, data });
  }

  private async prepare(track: MediaStreamTrack | Device, options: PublishOptions = {}): Promise<Publication> {
    const device = typeof track === 'string' ? track : null;
    const media = typeof track === 'string' ? await capture(track, options.constraints) : track;
    return new Publication(media, {
      changed: (p) => {
        if (p.id !== null) this.session.send({ type: 'mute', track_id: p.id, muted: p.muted });
        this.emit('local', { publication: p });
      },
      replaced: async (p) => {
        await this.link?.replace(p);
        this.emit('local', { publication: p });
      },
      stopped: (p) => {
        this.ours.delete(p);
        this.link?.unpublish(p);
        this.emit('local', { publication: p });
      },
    }, device, options);
  }

  // --- state

  private refresh(error?: OramaError): void {
    if (this.shown === 'closed') return;
    const up = this.session.joined && this.flow === 'flowing';
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
