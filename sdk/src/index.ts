// The SDK's public face.

export { join, Room } from './room.js';
export type { JoinOptions, RemotePeer, RemoteTrack, RoomEvents, RoomState } from './room.js';
export { Publication, capture } from './media.js';
export type { Device, PublishOptions, VideoCodec } from './media.js';
export { DataChannel } from './data.js';
export type { Data, DataOptions } from './data.js';
export { OramaError } from './errors.js';
export { backoff } from './retry.js';
export type { BackoffOptions, RetryPolicy } from './retry.js';
export type { Path, RoomStats, TrackStats } from './stats.js';
export type { Transport } from './session.js';
export type { Layer, PeerQuality, Permissions, RoomSettings } from './protocol.js';
