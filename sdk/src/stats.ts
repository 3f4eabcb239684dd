// Reads an RTCStatsReport: the path in use, and every track's codec, size, rate and loss.

/** The path that every packet of the connection takes. */
export interface Path {
  /** Type of the local candidate: "relay", or the path is not what was promised. */
  type: string;
  /** How the client reaches the relay. */
  transport: 'udp' | 'tcp' | 'tls' | '';
  /** The relay server that the client asked, such as "127.0.0.11:3478"; "" when unknown. */
  server: string;
  /** The address that the relay sends from: IP:port. */
  address: string;
  /** The SFU's address: IP:port. */
  remote: string;
  /** Round trip in ms, null when unknown. */
  rtt: number | null;
}

/** One track's numbers; null where a number is not known (yet). */
export interface TrackStats {
  direction: 'up' | 'down';
  mid: string;
  /** Set for each encoding of simulcast: they are entries of their own, with the same mid. */
  rid?: string;
  kind: 'audio' | 'video';
  /** Set for a down track. */
  trackId?: string;
  peerId?: string;
  /** Such as "VP8" or "opus". */
  codec: string;
  width: number | null;
  height: number | null;
  /** Frames a second. */
  fps: number | null;
  /** Bits a second since the last call. */
  bitrate: number | null;
  /** 0 to 1, since the last call. */
  loss: number | null;
  /** ms */
  jitter: number | null;
  /** Of this track's reports when there are any, else of the path; ms. */
  rtt: number | null;
  packets: number;
  frames: number;
  path: Path | null;
}

export interface RoomStats {
  path: Path | null;
  tracks: TrackStats[];
}

/** What is read of a report's entries; every browser leaves some out. */
interface Entry {
  id: string;
  type: string;
  timestamp: number;
  kind?: 'audio' | 'video';
  [field: string]: unknown;
}

const n = (v: unknown): number | null => (typeof v === 'number' && Number.isFinite(v) ? v : null);
const s = (v: unknown): string => (typeof v === 'string' ? v : '');

function entries(report: RTCStatsReport): Map<string, Entry> {
  const out = new Map<string, Entry>();
  report.forEach((e: Entry) => out.set(e.id, e));
  return out;
}

function selectedPair(all: Map<string, Entry>): Entry | undefined {
  for (const e of all.values()) {
    if (e.type === 'transport' && typeof e['selectedCandidatePairId'] === 'string') {
      const pair = all.get(e['selectedCandidatePairId']);
      if (pair) return pair;
    }
  }
  for (const e of all.values()) {
    if (e.type === 'candidate-pair' && (e['selected'] === true || (e['nominated'] === true && e['state'] === 'succeeded'))) return e;
  }
  return undefined;
}

/** Counters for FlowWatch. */
export function counters(report: RTCStatsReport): { received: number; checks: number } {
  const all = entries(report);
  let received = 0;
  for (const e of all.values()) {
    if (e.type === 'inbound-rtp') received += n(e['packetsReceived']) ?? 0;
    if (e.type === 'transport') received += n(e['packetsReceived']) ?? n(e['bytesReceived']) ?? 0;
    if (e.type === 'remote-inbound-rtp') received += n(e['roundTripTimeMeasurements']) ?? 0;
  }
  const pair = selectedPair(all);
  return { received, checks: n(pair?.['responsesReceived']) ?? 0 };
}

function path(all: Map<string, Entry>): Path | null {
  const pair = selectedPair(all);
  if (!pair) return null;
  const local = all.get(s(pair['localCandidateId']));
  const remote = all.get(s(pair['remoteCandidateId']));
  const rtt = n(pair['currentRoundTripTime']);
  return {
    type: s(local?.['candidateType']),
    transport: (s(local?.['relayProtocol']) || s(local?.['protocol'])) as Path['transport'],
    server: s(local?.['url']).replace(/^turns?:/, '').replace(/\?.*$/, ''),
    address: hostPort(local),
    remote: hostPort(remote),
    rtt: rtt === null ? null : rtt * 1000,
  };
}

function hostPort(c: Entry | undefined): string {
  if (!c) return '';
  const host = s(c['address']) || s(c['ip']);
  return host && `${host}:${String(c['port'] ?? '')}`;
}

interface Before {
  at: number;
  bytes: number;
  packets: number;
  lost: number;
}

/** Reads reports one after another, so that rates can be told. */
export class StatsReader {
  private before = new Map<string, Before>();

  /** names gives the ids of a down track by its mid. */
  read(report: RTCStatsReport, names: (mid: string) => { trackId: string; peerId: string } | undefined): RoomStats {
    const all = entries(report);
    const way = path(all);
    const seen = new Map<string, Before>();
    const tracks: TrackStats[] = [];
    for (const e of all.values()) {
      if (e.type !== 'inbound-rtp' && e.type !== 'outbound-rtp') continue;
      if (e.kind !== 'audio' && e.kind !== 'video') continue;
      tracks.push(this.track(e, all, way, seen, names));
    }
    this.before = seen;
    return { path: way, tracks };
  }

  private track(
    e: Entry, all: Map<string, Entry>, way: Path | null, seen: Map<string, Before>,
    names: (mid: string) => { trackId: string; peerId: string } | undefined,
  ): TrackStats {
    const down = e.type === 'inbound-rtp';
    const report = all.get(s(e['remoteId']));
    const now: Before = {
      at: e.timestamp,
      bytes: n(e[down ? 'bytesReceived' : 'bytesSent']) ?? 0,
      packets: n(e[down ? 'packetsReceived' : 'packetsSent']) ?? 0,
      lost: n((down ? e : report)?.['packetsLost']) ?? 0,
    };
    seen.set(e.id, now);
    const was = this.before.get(e.id);
    const rtt = n(report?.['roundTripTime']);
    const jitter = n((down ? e : report)?.['jitter']);
    const mid = s(e['mid']);
    return {
      direction: down ? 'down' : 'up',
      mid,
      ...(!down && s(e['rid']) && { rid: s(e['rid']) }),
      kind: e.kind!,
      ...(down ? names(mid) : undefined),
      codec: s(all.get(s(e['codecId']))?.['mimeType']).replace(/^.*\//, ''),
      width: n(e['frameWidth']),
      height: n(e['frameHeight']),
      fps: n(e['framesPerSecond']),
      bitrate: rate(was, now),
      loss: loss(was, now, down),
      jitter: jitter === null ? null : jitter * 1000,
      rtt: rtt === null ? (way?.rtt ?? null) : rtt * 1000,
      packets: now.packets,
      frames: n(e[down ? 'framesDecoded' : 'framesEncoded']) ?? 0,
      path: way,
    };
  }
}

function rate(was: Before | undefined, now: Before): number | null {
  if (!was || now.at <= was.at || now.bytes < was.bytes) return null;
  return Math.round(((now.bytes - was.bytes) * 8000) / (now.at - was.at));
}

// Up, the packets sent include the lost ones; down, the received do not.
function loss(was: Before | undefined, now: Before, down: boolean): number | null {
  if (!was) return null;
  const lost = Math.max(0, now.lost - was.lost);
  const all = now.packets - was.packets + (down ? lost : 0);
  return all > 0 ? Math.min(1, lost / all) : null;
}
