// The signalling protocol (docs/protocol.md) as types, and the check that a frame from outside is
// what its type says. No I/O. The same golden files hold this and internal/signal together.

/** A participant as the others see it. */
export interface Peer {
  peer_id: string;
  user_id: string;
  name: string;
  metadata?: unknown;
  tracks: Track[] | null;
  /** Who it is at the server that it is about to leave; to be believed only of the same user. */
  moving_from?: string;
}

/** A published track. */
export interface Track {
  track_id: string;
  kind: 'audio' | 'video';
  /** "microphone", "camera", "screen", or the publisher's word. */
  source: string;
  name: string;
  muted: boolean;
  /** Muted by an admin, and only an admin may unmute it. */
  locked?: boolean;
  layers: Layer[] | null;
  /** Only towards the publisher itself. */
  mid?: string;
}

/** A simulcast or SVC layer; sizes in pixels. */
export interface Layer {
  rid: string;
  width?: number;
  height?: number;
}

/** What the token allows in this room. */
export interface Permissions {
  publish: boolean;
  subscribe: boolean;
  data: boolean;
  admin: boolean;
}

/** What an admin may change of a room; maxParticipants 0 means as many as the namespace allows. */
export interface RoomSettings {
  locked: boolean;
  max_participants: number;
  metadata?: unknown;
}

/** Ties a media section to a track. A client fills the first four, the SFU mid, track_id and peer_id. */
export interface TrackRef {
  mid: string;
  source?: string;
  name?: string;
  muted?: boolean;
  track_id?: string;
  peer_id?: string;
}

export interface Join {
  type: 'join';
  room?: string;
  name?: string;
  metadata?: unknown;
  resume?: string;
  auto_subscribe?: boolean;
  await_offer?: boolean;
  moving_from?: string;
}
export interface Joined {
  type: 'joined';
  room: string;
  peer_id: string;
  user_id: string;
  peers: Peer[] | null;
  resume: string;
  resumed: boolean;
  permissions: Permissions;
  settings?: RoomSettings;
  /** Base URLs of the cluster's gateways, for when this one is lost. */
  gateways?: string[];
}
export interface Offer {
  type: 'offer';
  sdp: string;
  tracks?: TrackRef[];
}
export interface Answer {
  type: 'answer';
  sdp: string;
  tracks?: TrackRef[];
}
export interface Negotiate {
  type: 'negotiate';
  audio?: number;
  video?: number;
  ice_restart?: boolean;
}
export interface ICECandidate {
  type: 'ice-candidate';
  candidate: CandidateInit | null;
}
/** An RTCIceCandidateInit (W3C webrtc-pc). */
export interface CandidateInit {
  candidate: string;
  sdpMid?: string | null;
  sdpMLineIndex?: number | null;
  usernameFragment?: string | null;
}
export interface Leave {
  type: 'leave';
}
export interface PeerJoined {
  type: 'peer-joined';
  peer: Peer;
}
export interface PeerLeft {
  type: 'peer-left';
  peer_id: string;
  reason: string;
}
/** What reaches a relay; urls are ordered fastest first, ttl is in seconds. */
export interface Credentials {
  urls: string[] | null;
  username: string;
  credential: string;
  ttl: number;
  uris?: string[] | null;
  password?: string;
}
export interface TURNCredentials extends Credentials {
  type: 'turn-credentials';
}
export interface RefreshCredentials extends Credentials {
  type: 'refresh-credentials';
}
export interface ServerDraining {
  type: 'server-draining';
  reason: string;
  deadline_ms: number;
  reconnect: string | null;
}
export interface TrackPublished {
  type: 'track-published';
  peer_id: string;
  track: Track;
}
export interface TrackUnpublished {
  type: 'track-unpublished';
  peer_id: string;
  track: Track;
}
export interface TrackMuted {
  type: 'track-muted';
  peer_id: string;
  track: Track;
  /** The admin's peer id, or "api"; left out when the publisher did it. */
  by?: string;
}
export interface Subscribe {
  type: 'subscribe';
  track_id: string;
}
export interface Unsubscribe {
  type: 'unsubscribe';
  track_id: string;
}
/** How a subscribed track is wanted: pixels, frames a second, higher priority first. */
export interface Prefer {
  type: 'prefer';
  track_id: string;
  max_width?: number;
  max_fps?: number;
  priority?: number;
  paused?: boolean;
}
/** How many videos are wanted at once; null: all. */
export interface LastN {
  type: 'last-n';
  videos: number | null;
}
export interface Held {
  type: 'held';
  track_ids: string[] | null;
}
/** Video of ours of which not every encoding is of use to anybody now: the rids that are; "" is the only one of a track without simulcast. */
export interface Wanted {
  type: 'wanted';
  tracks: { mid: string; rids: string[] | null }[] | null;
}
export interface Mute {
  type: 'mute';
  track_id: string;
  muted: boolean;
  locked?: boolean;
}
/** One of the two ids. */
export interface Kick {
  type: 'kick';
  peer_id?: string;
  user_id?: string;
  reason?: string;
}
export interface Permit {
  type: 'permit';
  peer_id: string;
  permissions: Permissions;
}
export interface PermissionsChanged {
  type: 'permissions-changed';
  peer_id: string;
  permissions: Permissions;
  by: string;
}
/** What is left out stays; metadata null ends it. */
export interface SetPeer {
  type: 'set-peer';
  peer_id?: string;
  name?: string;
  metadata?: unknown;
}
export interface PeerChanged {
  type: 'peer-changed';
  peer_id: string;
  name: string;
  metadata?: unknown;
}
/** What is left out stays; metadata null ends it. */
export interface SetRoom {
  type: 'set-room';
  locked?: boolean;
  max_participants?: number;
  metadata?: unknown;
}
export interface RoomChanged {
  type: 'room-changed';
  settings: RoomSettings;
  by: string;
}
export interface Level {
  peer_id: string;
  /** 0 (silent) to 1. */
  level: number;
}
export interface Speakers {
  type: 'speakers';
  levels: Level[] | null;
}
export interface PeerQuality {
  peer_id: string;
  /** "excellent", "good", "poor" or "lost". */
  quality: string;
  /** Of what is not excellent: "up_loss", "down_loss", "rtt", "limit" or "no_packets". */
  cause?: string;
}
export interface Quality {
  type: 'quality';
  peers: PeerQuality[] | null;
}
/** What is known of our way down, in bits a second: what it carries at least, or, when that is less than wanted, what it carries. */
export interface Bandwidth {
  type: 'bandwidth';
  estimate: number;
  /** What the SFU would send us now if there were room for all. */
  wanted: number;
}
export interface Kicked {
  type: 'kicked';
  reason: string;
}
export interface RoomClosed {
  type: 'room-closed';
  reason: string;
}
export interface ErrorMessage {
  type: 'error';
  code: string;
  message: string;
  retryable: boolean;
}
export interface Ping {
  type: 'ping';
  t: number;
}
export interface Pong {
  type: 'pong';
  t: number;
}

/** What a client may send. */
export type ClientMessage =
  | Join | Offer | Answer | Negotiate | ICECandidate | Leave
  | Subscribe | Unsubscribe | Prefer | LastN | Mute | Kick | Permit | SetPeer | SetRoom | Ping | Pong;

/** What an SFU may send. */
export type ServerMessage =
  | Joined | Offer | Answer | ICECandidate | PeerJoined | PeerLeft | TURNCredentials | RefreshCredentials
  | ServerDraining | TrackPublished | TrackUnpublished | TrackMuted | Held | Wanted | PermissionsChanged | PeerChanged
  | RoomChanged | Speakers | Quality | Bandwidth | Kicked | RoomClosed | ErrorMessage | Ping | Pong;

export type Message = ClientMessage | ServerMessage;
export type MessageType = Message['type'];

/** Limits of the protocol; bytes unless said otherwise. */
export const limits = {
  firstFrame: 4 << 10,
  frame: 256 << 10,
  name: 128,
  metadata: 4 << 10,
  id: 128,
  source: 64,
  dataMessage: 64 << 10,
  /** frames at once, then frames a second */
  burst: 40,
  rate: 10,
} as const;

type Check = (v: unknown) => boolean;
type Shape = Record<string, Check>;

const str: Check = (v) => typeof v === 'string';
const num: Check = (v) => typeof v === 'number' && Number.isFinite(v);
const bool: Check = (v) => typeof v === 'boolean';
const any: Check = () => true;
const opt = (c: Check): Check => (v) => v === undefined || c(v);
const orNull = (c: Check): Check => (v) => v === null || c(v);
// An empty list of the SFU may arrive as null.
const list = (c: Check): Check => orNull((v) => Array.isArray(v) && v.every(c));
const obj = (shape: Shape): Check => (v) => matches(v, shape);

function matches(v: unknown, shape: Shape): boolean {
  if (typeof v !== 'object' || v === null || Array.isArray(v)) return false;
  const fields = v as Record<string, unknown>;
  for (const key in shape) if (!shape[key]!(fields[key])) return false;
  return true;
}

const layer = obj({ rid: str, width: opt(num), height: opt(num) });
const track = obj({
  track_id: str, kind: (v) => v === 'audio' || v === 'video', source: str, name: str, muted: bool,
  locked: opt(bool), layers: opt(list(layer)), mid: opt(str),
});
const peer = obj({ peer_id: str, user_id: str, name: str, metadata: any, tracks: opt(list(track)), moving_from: opt(str) });
const ref = obj({
  mid: str, source: opt(str), name: opt(str), muted: opt(bool), track_id: opt(str), peer_id: opt(str),
});
const candidate = obj({
  candidate: str, sdpMid: opt(orNull(str)), sdpMLineIndex: opt(orNull(num)), usernameFragment: opt(orNull(str)),
});
const credentials: Shape = {
  urls: list(str), username: str, credential: str, ttl: num, uris: opt(list(str)), password: opt(str),
};
const description: Shape = { sdp: str, tracks: opt(list(ref)) };
const trackEvent: Shape = { peer_id: str, track };
const permissions = obj({ publish: bool, subscribe: bool, data: bool, admin: bool });
const settings = obj({ locked: bool, max_participants: num, metadata: any });

const shapes: Record<MessageType, Shape> = {
  'join': {
    room: opt(str), name: opt(str), metadata: any, resume: opt(str), auto_subscribe: opt(bool), await_offer: opt(bool),
    moving_from: opt(str),
  },
  'joined': {
    room: str, peer_id: str, user_id: str, peers: list(peer), resume: str, resumed: bool,
    permissions, settings: opt(settings),
    gateways: opt(list(str)),
  },
  'offer': description,
  'answer': description,
  'negotiate': { audio: opt(num), video: opt(num), ice_restart: opt(bool) },
  'ice-candidate': { candidate: orNull(candidate) },
  'leave': {},
  'peer-joined': { peer },
  'peer-left': { peer_id: str, reason: str },
  'turn-credentials': credentials,
  'refresh-credentials': credentials,
  'server-draining': { reason: str, deadline_ms: num, reconnect: orNull(str) },
  'track-published': trackEvent,
  'track-unpublished': trackEvent,
  'track-muted': { ...trackEvent, by: opt(str) },
  'subscribe': { track_id: str },
  'unsubscribe': { track_id: str },
  'prefer': { track_id: str, max_width: opt(num), max_fps: opt(num), priority: opt(num), paused: opt(bool) },
  'last-n': { videos: orNull(num) },
  'held': { track_ids: list(str) },
  'wanted': { tracks: list(obj({ mid: str, rids: list(str) })) },
  'mute': { track_id: str, muted: bool, locked: opt(bool) },
  'kick': { peer_id: opt(str), user_id: opt(str), reason: opt(str) },
  'permit': { peer_id: str, permissions },
  'permissions-changed': { peer_id: str, permissions, by: str },
  'set-peer': { peer_id: opt(str), name: opt(str), metadata: any },
  'peer-changed': { peer_id: str, name: str, metadata: any },
  'set-room': { locked: opt(bool), max_participants: opt(num), metadata: any },
  'room-changed': { settings, by: str },
  'speakers': { levels: list(obj({ peer_id: str, level: num })) },
  'quality': { peers: list(obj({ peer_id: str, quality: str, cause: opt(str) })) },
  'bandwidth': { estimate: num, wanted: num },
  'kicked': { reason: str },
  'room-closed': { reason: str },
  'error': { code: str, message: str, retryable: bool },
  'ping': { t: num },
  'pong': { t: num },
};

/** Every message type of the protocol. */
export const messageTypes = Object.keys(shapes) as MessageType[];

/** Renders a message as one flat JSON object, type first. */
export function encode(m: Message): string {
  const { type, ...rest } = m;
  return JSON.stringify({ type, ...rest });
}

/** Reads one frame: null when it is not JSON, of no known type, or a field has the wrong type. */
export function decode(frame: unknown): Message | null {
  if (typeof frame !== 'string') return null;
  let v: unknown;
  try {
    v = JSON.parse(frame);
  } catch {
    return null;
  }
  const type = (v as { type?: unknown } | null)?.type;
  if (typeof type !== 'string' || !Object.hasOwn(shapes, type)) return null;
  return matches(v, shapes[type as MessageType]) ? (v as Message) : null;
}
