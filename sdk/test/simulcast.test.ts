import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { join, type PublishOptions, type Room } from '../src/index.js';
import type { ServerMessage } from '../src/protocol.js';
import { encodingsOf, layersFor } from '../src/simulcast.js';
import { advance, browser, FakePC, FakeSocket, FakeTrack, sdp, settle } from './fakes.js';

const permissions = { publish: true, subscribe: true, data: true, admin: false };
const slots = [{ mid: '0', kind: 'audio', direction: 'recvonly' }, { mid: '1', kind: 'video', direction: 'recvonly' }] as const;
const credentials: ServerMessage = { type: 'turn-credentials', urls: ['turn:127.0.0.1:3478?transport=udp'], username: 'u', credential: 'c', ttl: 600 };
const joined: ServerMessage = { type: 'joined', room: 'r', peer_id: 'me', user_id: 'u', peers: [], resume: 'token', resumed: false, permissions };
const hd = { width: 1280, height: 720 };
const media = (t: FakeTrack) => t as unknown as MediaStreamTrack;

test('how many encodings a picture is worth', () => {
  for (const [width, height, screen, n] of [
    [1920, 1080, false, 3], [960, 540, false, 3], [540, 960, false, 3], [640, 480, false, 2], [480, 270, false, 2], [320, 240, false, 1],
    [1920, 1080, true, 2], [640, 480, true, 2], [319, 100, true, 1],
  ] as const) assert.equal(layersFor({ width, height }, screen), n, `${width}x${height} ${screen}`);
});

test('the encodings: small before large, each twice the one before, more bits for more pixels', () => {
  assert.deepEqual(encodingsOf(3, hd, false), [
    { rid: 'q', active: true, scaleResolutionDownBy: 4, maxBitrate: 160_000, scalabilityMode: 'L1T3', maxFramerate: 20 },
    { rid: 'h', active: true, scaleResolutionDownBy: 2, maxBitrate: 450_000, scalabilityMode: 'L1T3', maxFramerate: 20 },
    { rid: 'f', active: true, scaleResolutionDownBy: 1, maxBitrate: 1_700_000, scalabilityMode: 'L1T3' },
  ]);
  assert.deepEqual(encodingsOf(2, hd, true), [
    { rid: 'h', active: true, scaleResolutionDownBy: 2, maxBitrate: 200_000, maxFramerate: 5 }, { rid: 'f', active: true, scaleResolutionDownBy: 1 },
  ]);
  assert.deepEqual(encodingsOf(1, hd, false), [], 'one needs no name');
  for (let width = 480; width <= 3840; width += 77) {
    for (const count of [2, 3]) {
      const size = { width, height: width * 0.5625 };
      const all = encodingsOf(count, size, false);
      assert.deepEqual(all.map((e) => e.rid), ['q', 'h', 'f'].slice(-count));
      const on = all.filter((e) => e.active);
      assert.equal(on.length, Math.min(count, layersFor(size, false)));
      assert.equal(on.at(-1)!.scaleResolutionDownBy, 1, 'the full size is always there');
      on.reduce((a, b) => (assert.ok(a.maxBitrate! < b.maxBitrate! && a.scaleResolutionDownBy === 2 * b.scaleResolutionDownBy, `${width}`), b));
      assert.ok(all.every((e) => e.maxBitrate! >= 40_000 && e.maxBitrate! <= 8_000_000));
    }
  }
});

async function enter(t: TestContext, size: { width?: number; height?: number }, options: PublishOptions = {}): Promise<Room> {
  let room: Room | undefined;
  t.after(() => room?.leave()); // before the browser is taken away
  browser(t);
  const joining = join('http://gw.test', { room: 'r', token: 'jwt', publish: [{ track: media(new FakeTrack('video', size)), options }] });
  await advance(10, 5);
  FakeSocket.last.say(joined);
  room = await joining;
  FakeSocket.last.say(credentials);
  FakeSocket.last.say({ type: 'offer', sdp: sdp(...slots), tracks: [] });
  await settle();
  return room;
}

const answer = async () => {
  FakeSocket.last.say({ type: 'answer', sdp: sdp() });
  await settle();
};
const wanted = async (...tracks: [mid: string, ...rids: string[]][]) => {
  FakeSocket.last.say({ type: 'wanted', tracks: tracks.map(([mid, ...rids]) => ({ mid, rids })) });
  await settle();
};
const layered = (pc = FakePC.last) => pc.transceivers.filter((x) => x.sender.getParameters().encodings.length > 1);

test('a camera is offered as simulcast once the first offer is answered', async (t) => {
  await enter(t, hd);
  const pc = FakePC.last;
  assert.deepEqual(pc.log, ['remote offer', 'local answer', 'local offer']);
  assert.deepEqual(layered()[0]!.sender.active, ['q', 'h', 'f']);
  assert.deepEqual(FakeSocket.last.find('answer')!.tracks, [], 'the slot of the first offer stays free');
  assert.deepEqual(FakeSocket.last.find('offer')!.tracks!.map((r) => [r.mid, r.source]), [[layered()[0]!.mid, 'camera']]);
  assert.ok(layered()[0]!.extensions.every((e) => e.direction === 'sendrecv'), 'it says which encodings it sends');
});

test('a codec of choice comes first in a section of its own, with simulcast and without', async (t) => {
  for (const [size, simulcast, encodings] of [[hd, true, 3], [hd, false, 1], [{ width: 300, height: 200 }, true, 1]] as const) {
    await t.test(`${size.width} ${simulcast}`, async (t) => {
      await enter(t, size, { codec: 'h264', simulcast });
      const own = FakePC.last.transceivers.find((x) => x.codecs.length > 0)!;
      assert.equal(own.direction, 'sendonly');
      assert.deepEqual(own.codecs, ['video/H264', 'video/H264', 'video/VP8', 'video/rtx', 'video/VP9']);
      assert.equal(own.sender.getParameters().encodings.length, encodings);
      assert.deepEqual(FakeSocket.last.find('offer')!.tracks!.map((r) => [r.mid, r.source]), [[own.mid, 'camera']]);
    });
  }
  await t.test('one that this browser does not have', async (t) => {
    await enter(t, hd, { codec: 'av1' });
    assert.deepEqual(layered()[0]!.codecs, [], 'everything stays as it is');
  });
});

test('sound in a section of its own is offered with redundancy first', async (t) => {
  const room = await enter(t, hd);
  for (const name of ['one', 'two']) await room.publish(media(new FakeTrack('audio')), { name });
  await settle();
  const own = FakePC.last.transceivers.filter((x) => x.codecs.length > 0);
  assert.deepEqual(own.map((x) => x.codecs), [['audio/red', 'audio/opus', 'audio/PCMU']], 'the first took the slot');
});

test('simulcast: false, and a small picture, take the first slot', async (t) => {
  for (const [size, options] of [[hd, { simulcast: false }], [{ width: 300, height: 200 }, {}]] as const) {
    await t.test(JSON.stringify(options), async (u) => {
      await enter(u, size, options);
      assert.equal(layered().length, 0);
      assert.deepEqual(FakePC.last.log, ['remote offer', 'local answer']);
    });
  }
});

test('a picture whose size nobody tells has three', async (t) => {
  await enter(t, {});
  assert.deepEqual(layered()[0]!.sender.active, ['q', 'h', 'f']);
});

test('what nobody wants is switched off, and on again', async (t) => {
  const room = await enter(t, hd);
  await answer();
  const voice = await room.publish(media(new FakeTrack('audio')));
  const t0 = layered()[0]!;
  await wanted([t0.mid!, 'q', 'h'], [room.publicationOn('0') === voice ? '0' : '?']);
  assert.deepEqual(t0.sender.active, ['q', 'h']);
  const audio = FakePC.last.transceivers.find((x) => x.kind === 'audio')!;
  assert.deepEqual(audio.sender.active, [''], 'sound never is');
  await wanted([t0.mid!]);
  assert.deepEqual(t0.sender.active, []);
  const set = t0.sender.set;
  await wanted([t0.mid!], ['unheard of', 'f']);
  assert.equal(t0.sender.set, set, 'nothing changed');
  await wanted();
  assert.deepEqual(t0.sender.active, ['q', 'h', 'f']);
});

test('one encoding without a name goes off and on too', async (t) => {
  await enter(t, hd, { simulcast: false });
  const x = FakePC.last.transceivers.find((o) => o.mid === '1')!;
  await wanted(['1']);
  assert.deepEqual(x.sender.active, []);
  await wanted(['1', '']);
  assert.deepEqual(x.sender.active, ['']);
});

test('the next publication has a section of its own, with all of it on', async (t) => {
  const room = await enter(t, hd);
  await answer();
  const x = layered()[0]!;
  await wanted([x.mid!]);
  [...room.publications][0]!.stop();
  await settle();
  assert.deepEqual([x.direction, x.sender.track], ['inactive', null]);
  await answer();
  await room.publish(media(new FakeTrack('video', hd)), { source: 'door' });
  await settle();
  assert.equal(layered().length, 2);
  assert.deepEqual([x.direction, layered()[1]!.sender.active], ['inactive', ['q', 'h', 'f']]);
});

test('another camera in place of the first: sizes and bitrates of its own, and what was off stays off', async (t) => {
  const room = await enter(t, hd);
  await answer();
  const x = layered()[0]!;
  const camera = [...room.publications][0]!;
  const now = () => x.sender.getParameters().encodings.map((e) => [e.rid, e.active, e.scaleResolutionDownBy, e.maxBitrate]);
  await camera.replace(media(new FakeTrack('video', { width: 640, height: 360 })));
  await settle();
  assert.deepEqual(now(), [['q', true, 2, 160_000], ['h', true, 1, 450_000], ['f', false, 1, 450_000]]);
  await wanted([x.mid!, 'q']);
  await camera.replace(media(new FakeTrack('video', hd)));
  await settle();
  assert.deepEqual(now(), [['q', true, 4, 160_000], ['h', false, 2, 450_000], ['f', false, 1, 1_700_000]]);
  assert.equal(FakePC.last.log.filter((l) => l === 'local offer').length, 1, 'without a negotiation');
});

test('an offer that was crossed is made again, with the same section', async (t) => {
  await enter(t, hd);
  const before = layered()[0]!;
  FakeSocket.last.say({ type: 'offer', sdp: sdp(...slots), tracks: [] });
  await settle();
  assert.deepEqual(FakePC.last.log.slice(-3), ['remote offer', 'local answer', 'local offer']);
  assert.deepEqual(layered(), [before]);
});
