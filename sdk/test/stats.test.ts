import assert from 'node:assert/strict';
import { test } from 'node:test';
import { counters, StatsReader } from '../src/stats.js';

function report(at: number, received: number, lost: number, bytes: number): RTCStatsReport {
  return new Map(Object.entries({
    T: { type: 'transport', selectedCandidatePairId: 'P', packetsReceived: received },
    P: { type: 'candidate-pair', localCandidateId: 'L', remoteCandidateId: 'R', currentRoundTripTime: 0.012, responsesReceived: 7 },
    L: { type: 'local-candidate', candidateType: 'relay', relayProtocol: 'tcp', protocol: 'udp', address: '127.10.0.1', port: 50000, url: 'turn:127.0.0.11:3478?transport=tcp' },
    R: { type: 'remote-candidate', address: '127.10.0.2', port: 20000 },
    C: { type: 'codec', mimeType: 'video/VP8' },
    I: { type: 'inbound-rtp', kind: 'video', mid: '3', codecId: 'C', packetsReceived: received, packetsLost: lost, bytesReceived: bytes, frameWidth: 640, frameHeight: 360, framesPerSecond: 30, framesDecoded: 9, jitter: 0.004 },
    O: { type: 'outbound-rtp', kind: 'audio', mid: '0', remoteId: 'X', packetsSent: received, bytesSent: bytes },
    X: { type: 'remote-inbound-rtp', packetsLost: lost, roundTripTime: 0.03, jitter: 0.001, roundTripTimeMeasurements: 4 },
  }).map(([id, e]) => [id, { id, timestamp: at, ...e }])) as unknown as RTCStatsReport;
}

test('a track is told with its path, names and rates', () => {
  const reader = new StatsReader();
  const names = (mid: string) => (mid === '3' ? { trackId: 't1', peerId: 'p1' } : undefined);
  assert.equal(reader.read(report(1000, 100, 0, 10_000), names).tracks[0]!.bitrate, null, 'no rate from one report');
  const { path, tracks } = reader.read(report(3000, 190, 10, 260_000), names);
  assert.deepEqual(path, { type: 'relay', transport: 'tcp', server: '127.0.0.11:3478', address: '127.10.0.1:50000', remote: '127.10.0.2:20000', rtt: 12 });
  const down = tracks.find((t) => t.direction === 'down')!;
  assert.deepEqual(
    [down.trackId, down.peerId, down.codec, down.width, down.height, down.bitrate, down.loss, down.jitter, down.rtt],
    ['t1', 'p1', 'VP8', 640, 360, 1_000_000, 0.1, 4, 12]);
  const up = tracks.find((t) => t.direction === 'up')!;
  assert.deepEqual([up.rtt, up.loss, up.trackId], [30, 10 / 90, undefined]);
});

test('an empty report is no error', () => {
  const empty = new Map() as unknown as RTCStatsReport;
  assert.deepEqual(new StatsReader().read(empty, () => undefined), { path: null, tracks: [] });
  assert.deepEqual(counters(empty), { received: 0, checks: 0 });
});

test('the counters see packets, reports and checks', () => {
  assert.deepEqual(counters(report(0, 5, 0, 0)), { received: 5 + 5 + 4, checks: 7 });
});
