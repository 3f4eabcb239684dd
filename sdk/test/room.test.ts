import assert from 'node:assert/strict';
import { mock, test, type TestContext } from 'node:test';
import { join, OramaError, type Room, type RoomState } from '../src/index.js';
import type { Peer, ServerMessage, Track } from '../src/protocol.js';
import { advance, browser, type FakePage, FakePC, FakeSocket, FakeTrack, sdp, settle } from './fakes.js';

const permissions = { publish: true, subscribe: true, data: true, admin: false };
const slots = [{ mid: '0', kind: 'audio', direction: 'recvonly' }, { mid: '1', kind: 'video', direction: 'recvonly' }] as const;
const turn = (ttl = 600) => ({ urls: ['turn:127.0.0.1:3478?transport=udp'], username: 'u', credential: 'c', ttl });

function track(id: string, kind: 'audio' | 'video' = 'video', more: Partial<Track> = {}): Track {
  return { track_id: id, kind, source: kind === 'audio' ? 'microphone' : 'camera', name: '', muted: false, layers: null, ...more };
}

function peer(id: string, ...tracks: Track[]): Peer {
  return { peer_id: id, user_id: `user-${id}`, name: id, tracks };
}

function joined(peers: Peer[] = [], more: { resumed?: boolean; peer_id?: string } = {}) {
  return { type: 'joined', room: 'r', peer_id: 'me', user_id: 'u', peers, resume: 'token', resumed: false, permissions, ...more } as const;
}

interface Entered {
  room: Room;
  states: RoomState[];
  camera: FakeTrack;
}

/** Joins with a camera and reaches media. */
async function enter(options: { peers?: Peer[]; token?: () => Promise<string>; url?: string[] } = {}): Promise<Entered> {
  const camera = new FakeTrack('video');
  const joining = join(options.url ?? 'http://gw.test', {
    room: 'r', token: options.token ?? 'jwt', name: 'Ada', publish: [{ track: camera as unknown as MediaStreamTrack, options: { source: 'camera' } }],
  });
  await advance(10, 5);
  FakeSocket.last.say(joined(options.peers));
  const room = await joining;
  const states: RoomState[] = [];
  room.on('state', ({ state }) => states.push(state));
  await greet();
  return { room, states, camera };
}

/** What the SFU does after joined, until packets flow. */
async function greet(refs: { mid: string; track_id: string; peer_id: string }[] = []): Promise<void> {
  FakeSocket.last.say({ type: 'turn-credentials', ...turn() });
  const downs = refs.map((r) => ({ mid: r.mid, kind: 'video' as const, direction: 'sendonly' }));
  FakeSocket.last.say({ type: 'offer', sdp: sdp(...slots, ...downs), tracks: refs });
  await settle();
  FakePC.last.connect();
  await flow(1500);
}

async function flow(ms: number): Promise<void> {
  for (let done = 0; done < ms; done += 100) {
    FakePC.last.received += 5;
    await advance(100, 100);
  }
}

function setUp(t: TestContext): FakePage {
  return browser(t);
}

test('join: the frame, the subprotocol, the URL, and a state that waits for packets', async (t) => {
  setUp(t);
  const { room, states } = await enter();
  const socket = FakeSocket.last;
  assert.equal(socket.url, 'ws://gw.test/v1/webrtc/signal?room=r');
  assert.deepEqual(socket.protocols, ['Bearer', 'jwt']);
  assert.deepEqual(socket.sent[0], { type: 'join', room: 'r', await_offer: true, name: 'Ada' });
  assert.deepEqual([FakePC.last.config.iceTransportPolicy, FakePC.last.config.bundlePolicy], ['relay', 'max-bundle']);
  assert.deepEqual(states, ['connected']);
  room.leave();
});

test('own tracks take the sections of the first offer, and are named by mid in the answer', async (t) => {
  setUp(t);
  const { room } = await enter();
  assert.deepEqual(FakePC.last.log, ['remote offer', 'local answer'], 'one round, no offer of ours');
  assert.deepEqual(FakeSocket.last.find('answer')!.tracks, [{ mid: '1', source: 'camera', name: '', muted: false }]);
  room.leave();
});

test('a track published later takes a free section, and one more gets its own', async (t) => {
  setUp(t);
  const { room } = await enter();
  const pc = FakePC.last;
  const p = await room.publish(new FakeTrack('audio') as unknown as MediaStreamTrack);
  await settle();
  assert.deepEqual(FakeSocket.last.find('offer')!.tracks!.map((r) => [r.mid, r.source]), [['1', 'camera'], ['0', 'microphone']]);
  FakeSocket.last.say({ type: 'answer', sdp: sdp() });
  await settle();
  await room.publish(new FakeTrack('video') as unknown as MediaStreamTrack, { source: 'screen' });
  await settle();
  assert.deepEqual(FakeSocket.last.find('offer')!.tracks!.map((r) => r.source), ['camera', 'microphone', 'screen']);
  assert.equal(pc.transceivers.length, 3);

  FakeSocket.last.say({ type: 'answer', sdp: sdp() });
  await settle();
  p.stop();
  await settle();
  assert.deepEqual(FakeSocket.last.find('offer')!.tracks!.map((r) => r.source), ['camera', 'screen']);
  assert.equal(pc.transceivers.find((x) => x.mid === '0')!.sender.track, null);
  room.leave();
});

test('tracks are mapped by mid, whichever of track and offer comes first', async (t) => {
  setUp(t);
  const { room } = await enter({ peers: [peer('ada', track('t1'))] });
  const got: string[] = [];
  room.on('track', ({ peer, track, media }) => got.push(`${peer.id} ${track.id} ${media === track.media}`));
  room.on('track-ended', ({ track }) => got.push(`ended ${track.id}`));
  const say = FakeSocket.last.say.bind(FakeSocket.last);
  const section = (mid: string) => ({ mid, kind: 'video' as const, direction: 'sendonly' });
  say({ type: 'offer', sdp: sdp(...slots, section('2')), tracks: [{ mid: '2', track_id: 't1', peer_id: 'ada' }] });
  await settle();
  say({ type: 'offer', sdp: sdp(...slots, section('2'), section('3')), tracks: [{ mid: '2', track_id: 't1', peer_id: 'ada' }, { mid: '3', track_id: 't2', peer_id: 'ada' }] });
  await settle();
  assert.deepEqual(got, ['ada t1 true']);
  say({ type: 'track-published', peer_id: 'ada', track: track('t2') });
  assert.deepEqual(got.splice(0), ['ada t1 true', 'ada t2 true']);
  // The section of an ended track is used again for another.
  say({ type: 'track-unpublished', peer_id: 'ada', track: track('t1') });
  say({ type: 'track-published', peer_id: 'ada', track: track('t3') });
  say({ type: 'offer', sdp: sdp(...slots, section('2'), section('3')), tracks: [{ mid: '2', track_id: 't3', peer_id: 'ada' }, { mid: '3', track_id: 't2', peer_id: 'ada' }] });
  await settle();
  assert.deepEqual(got.splice(0), ['ended t1', 'ada t3 true']);
  say({ type: 'peer-left', peer_id: 'ada', reason: 'left' });
  assert.deepEqual(got.sort(), ['ended t2', 'ended t3']);
  assert.equal(room.peers.size, 0);
  room.leave();
});

test('a crossing offer of the SFU wins: ours is rolled back and made again', async (t) => {
  setUp(t);
  const { room } = await enter();
  const pc = FakePC.last;
  await room.publish(new FakeTrack('video') as unknown as MediaStreamTrack, { source: 'screen' });
  await settle();
  pc.log.length = 0;
  FakeSocket.last.say({ type: 'error', code: 'glare', message: 'crossed', retryable: true });
  FakeSocket.last.say({ type: 'offer', sdp: sdp(...slots) });
  await settle();
  assert.deepEqual(pc.log, ['remote offer', 'local answer', 'local offer']);
  FakeSocket.last.say({ type: 'answer', sdp: sdp() });
  FakeSocket.last.say({ type: 'answer', sdp: sdp() });
  await settle();
  assert.equal(pc.log.filter((l) => l === 'remote answer').length, 1, 'a late answer is dropped');
  room.leave();
});

test('an offer that the SFU cannot use is taken back and made again more and more slowly, then the room anew', async (t) => {
  setUp(t);
  const { room } = await enter();
  const pc = FakePC.last;
  const offers = () => pc.log.filter((l) => l === 'local offer').length;
  await room.publish(new FakeTrack('video') as unknown as MediaStreamTrack, { source: 'screen' });
  await settle();
  const bad = { type: 'error', code: 'bad_sdp', message: 'no', retryable: false } as const;
  FakeSocket.last.say(bad);
  await flow(900);
  assert.equal(offers(), 1);
  await flow(300);
  assert.equal(offers(), 2);
  FakeSocket.last.say(bad);
  await flow(2100);
  FakeSocket.last.say(bad);
  await flow(4100);
  FakeSocket.last.say(bad);
  await flow(100);
  assert.equal(FakeSocket.all.length, 2, 'joined anew');
  room.leave();
});

test('mute is sent when the id is known, and kept for later when not', async (t) => {
  setUp(t);
  const { room, camera } = await enter();
  const [p] = room.publications;
  await p!.mute();
  assert.equal(camera.enabled, false);
  assert.equal(FakeSocket.last.find('mute'), undefined);
  FakeSocket.last.say({ type: 'track-published', peer_id: 'me', track: track('mine', 'video', { mid: '1' }) });
  assert.deepEqual(FakeSocket.last.find('mute'), { type: 'mute', track_id: 'mine', muted: true });
  await p!.unmute();
  assert.deepEqual(FakeSocket.last.find('mute'), { type: 'mute', track_id: 'mine', muted: false });
  assert.equal(p!.id, 'mine');
  room.leave();
});

test('a lost socket is resumed at once, on another gateway, with the connection untouched', async (t) => {
  setUp(t);
  const { room, states } = await enter({ url: ['http://a.test', 'http://b.test'], peers: [peer('ada'), peer('bob')] });
  const left: string[] = [];
  room.on('peer-left', ({ peer }) => left.push(peer.id));
  FakeSocket.last.drop(1006);
  assert.deepEqual(states, ['connected', 'recovering']);
  await advance(10, 5);
  assert.equal(FakeSocket.all.length, 2);
  const join = FakeSocket.last.find('join')!;
  assert.equal(join.resume, 'token');
  FakeSocket.last.say(joined([peer('ada')], { resumed: true }));
  await flow(600);
  assert.deepEqual(left, ['bob'], 'what happened meanwhile is told');
  assert.equal(FakePC.all.length, 1);
  assert.deepEqual(states, ['connected', 'recovering', 'connected']);
  room.leave();
});

test('an offer that the lost socket swallowed is sent again', async (t) => {
  setUp(t);
  const { room } = await enter();
  await room.publish(new FakeTrack('video') as unknown as MediaStreamTrack, { source: 'screen' });
  await settle();
  FakeSocket.last.drop(1006);
  await advance(10, 5);
  FakeSocket.last.say(joined([], { resumed: true }));
  await settle();
  assert.ok(FakeSocket.last.find('offer'));
  assert.equal(FakePC.last.log.filter((l) => l === 'local offer').length, 1, 'the same one');
  room.leave();
});

test('what was wished while the socket was lost is said when it is resumed, as it was said last', async (t) => {
  setUp(t);
  const ada = { ...peer('ada'), tracks: [{ track_id: 'v', kind: 'video', source: 'camera', name: '', muted: false, layers: [] }] } as unknown as Peer;
  const { room } = await enter({ peers: [ada] });
  room.prefer('v', { max_width: 1280 });
  FakeSocket.last.drop(1006);
  room.prefer('v', { max_width: 640 });
  room.prefer('v', { max_width: 320 });
  room.subscribe('v');
  room.lastN(4);
  room.lastN(null);
  room.update({ name: 'Bob' });
  await advance(10, 5);
  FakeSocket.last.say(joined([ada], { resumed: true }));
  await settle();
  const said = FakeSocket.last.sent.filter((m) => ['prefer', 'subscribe', 'unsubscribe', 'last-n', 'set-peer'].includes(m.type));
  assert.deepEqual(said, [
    { type: 'last-n', videos: null }, { type: 'set-peer', name: 'Bob' }, { type: 'subscribe', track_id: 'v' }, { type: 'prefer', track_id: 'v', max_width: 320 },
  ]);
  FakeSocket.last.drop(1006);
  await advance(10, 5);
  FakeSocket.last.say(joined([ada], { resumed: true }));
  await settle();
  assert.equal(FakeSocket.last.find('prefer'), undefined, 'once');
  room.leave();
});

test('not resumed: a new connection, everything published again, and connected only with packets', async (t) => {
  setUp(t);
  const { room, states, camera } = await enter({ peers: [peer('ada', track('t1'))] });
  const events: string[] = [];
  room.on('peer-left', ({ peer, reason }) => events.push(`${peer.id} ${reason}`));
  room.on('peer-joined', ({ peer }) => events.push(`${peer.id} joined`));
  room.data('x').send('kept');
  FakeSocket.last.drop(4503);
  await advance(10, 5);
  FakeSocket.last.say(joined([peer('ada2')], { peer_id: 'me2' }));
  assert.deepEqual(events, ['ada moved', 'ada2 joined']);
  FakeSocket.last.say({ type: 'turn-credentials', ...turn() });
  FakeSocket.last.say({ type: 'offer', sdp: sdp(...slots) });
  await advance(1000);
  assert.equal(FakePC.all.length, 2);
  assert.equal(FakePC.all[0]!.signalingState, 'closed');
  assert.equal(states.at(-1), 'recovering', 'a joined socket is not a call');
  assert.equal(FakePC.last.transceivers[0]!.sender.track, camera);
  assert.deepEqual(FakePC.last.channels.map((c) => c.label), ['x']);
  FakePC.last.connect();
  FakePC.last.channels[0]!.open();
  await flow(1000);
  assert.equal(states.at(-1), 'connected');
  assert.deepEqual(FakePC.last.channels[0]!.sent, ['kept']);
  room.leave();
});

test('refreshed credentials change the configuration and nothing else', async (t) => {
  setUp(t);
  const { room } = await enter();
  FakePC.last.log.length = 0;
  FakeSocket.last.say({ type: 'refresh-credentials', ...turn(), username: 'new' });
  await settle();
  assert.deepEqual(FakePC.last.log, ['setConfiguration']);
  assert.equal(FakePC.last.restarts, 0);
  room.leave();
});

test('silence restarts ICE, and connected comes with the packets', async (t) => {
  setUp(t);
  const { room, states } = await enter({ peers: [peer('ada', track('t1'))] });
  FakeSocket.last.say({ type: 'offer', sdp: sdp(...slots, { mid: '2', kind: 'video', direction: 'sendonly' }), tracks: [{ mid: '2', track_id: 't1', peer_id: 'ada' }] });
  await flow(2000);
  await advance(750);
  assert.equal(FakePC.last.restarts, 0, 'a pause is not a loss');
  await advance(750);
  assert.equal(FakePC.last.restarts, 1);
  assert.equal(states.at(-1), 'recovering');
  FakeSocket.last.say({ type: 'answer', sdp: sdp() });
  await advance(1000);
  assert.equal(FakePC.last.restarts, 1, 'a new path is given its time');
  FakePC.last.connect();
  await flow(1000);
  assert.equal(states.at(-1), 'connected');
  assert.equal(FakePC.all.length, 1);
  room.leave();
});

test('a path that answers checks is kept: the others may be silent', async (t) => {
  setUp(t);
  const { room } = await enter({ peers: [peer('ada', track('t1'))] });
  FakeSocket.last.say({ type: 'offer', sdp: sdp(...slots, { mid: '2', kind: 'video', direction: 'sendonly' }), tracks: [{ mid: '2', track_id: 't1', peer_id: 'ada' }] });
  await flow(2000);
  for (let s = 0; s < 5; s++) {
    if (FakePC.last.signalingState === 'have-local-offer') FakeSocket.last.say({ type: 'answer', sdp: sdp() });
    FakePC.last.checks++;
    await advance(1000, 250);
  }
  assert.equal(FakePC.all.length, 1);
  assert.equal(FakeSocket.all.length, 1);
  assert.equal(room.state, 'connected');
  room.leave();
});

test('a restart that the lost socket swallowed is sent again, and not begun anew', async (t) => {
  setUp(t);
  const { room } = await enter();
  FakePC.last.ice('failed');
  await settle();
  const sent = FakeSocket.last.find('offer');
  assert.ok(sent);
  FakeSocket.last.drop(1006);
  await advance(10, 5);
  FakeSocket.last.say(joined([], { resumed: true }));
  await advance(1500);
  assert.deepEqual(FakeSocket.last.find('offer'), sent);
  assert.equal(FakePC.last.restarts, 1);
  assert.equal(FakePC.last.log.filter((l) => l === 'local offer').length, 1);
  room.leave();
});

test('a restart in vain ends in a new join', async (t) => {
  setUp(t);
  const { room } = await enter();
  const first = FakeSocket.last;
  FakePC.last.ice('failed');
  await settle();
  first.say({ type: 'answer', sdp: sdp() });
  await advance(1800);
  assert.equal(FakeSocket.all.length, 1);
  await advance(600);
  assert.equal(FakePC.all[0]!.restarts, 1);
  assert.equal(FakeSocket.all.length, 2);
  assert.equal(FakeSocket.last.find('join')!.resume, undefined);
  assert.equal(FakeSocket.all[0]!.types().at(-1), 'leave');
  room.leave();
});

test('a restart with expired credentials gets new ones first', async (t) => {
  const page = setUp(t);
  const { room } = await enter();
  FakeSocket.last.say({ type: 'refresh-credentials', ...turn(1) });
  page.answer = () => new Response(JSON.stringify({ ...turn(), username: 'fetched' }));
  await flow(1500);
  FakePC.last.ice('failed');
  await settle();
  assert.deepEqual(page.asked.map((a) => [a.url, a.headers['Authorization']]), [['http://gw.test/v1/webrtc/turn/credentials', 'Bearer jwt']]);
  assert.equal((FakePC.last.config.iceServers[0] as { username?: string }).username, 'fetched');
  assert.equal(FakePC.last.restarts, 1);
  room.leave();
});

const draining = (deadline_ms = 5000) =>
  ({ type: 'server-draining', reason: 'update', deadline_ms, reconnect: 'wss://other.test/v1/webrtc/signal' }) as const;

/** A call with Ada, whose server is asked to go: both her pictures have the mid 2. */
async function moving(deadline = 5000) {
  const { room, states, camera } = await enter({ peers: [peer('ada', track('t1'))] });
  const old = { socket: FakeSocket.last, pc: FakePC.last };
  const down = (track_id: string, peer_id: string): ServerMessage => ({
    type: 'offer', sdp: sdp(...slots, { mid: '2', kind: 'video', direction: 'sendonly' }), tracks: [{ mid: '2', track_id, peer_id }],
  });
  old.socket.say(down('t1', 'ada'));
  await flow(500);
  const seen: string[] = [];
  room.on('peer-joined', ({ peer }) => seen.push(`joined ${peer.id}`));
  room.on('peer-left', ({ peer, reason }) => seen.push(`left ${peer.id} ${reason}`));
  room.on('track', ({ track }) => seen.push(`track ${track.id}`));
  states.length = 0;
  old.socket.say(draining(deadline));
  await advance(200);
  return { room, states, camera, seen, old, down, now: { socket: FakeSocket.last } };
}

/** Both connections carry packets. */
async function both(ms: number, ...pcs: FakePC[]): Promise<void> {
  for (let done = 0; done < ms; done += 100) {
    for (const pc of pcs) pc.received += 5;
    await advance(100, 100);
  }
}

test('a draining server is left when everybody is seen at the new place', async (t) => {
  setUp(t);
  const { room, states, camera, seen, old, down, now } = await moving();
  assert.equal(now.socket.url, 'wss://other.test/v1/webrtc/signal?room=r');
  assert.deepEqual([now.socket.find('join')!.resume, now.socket.find('join')!.moving_from], [undefined, 'me']);
  assert.equal(old.socket.closedWith, null);

  now.socket.say(joined([], { peer_id: 'me2' }));
  now.socket.say({ type: 'turn-credentials', ...turn() });
  now.socket.say({ type: 'peer-joined', peer: { ...peer('ada2', track('t2')), user_id: 'user-ada', moving_from: 'ada' } });
  now.socket.say(down('t2', 'ada2'));
  await settle();
  const pc = FakePC.last;
  assert.notEqual(pc, old.pc);
  assert.ok(pc.transceivers.some((x) => (x.sender.track as unknown) === camera), 'the same camera at both places');
  pc.connect();
  await both(1000, pc, old.pc);
  assert.deepEqual(seen, [], 'nobody is shown twice, and she is where her picture is');
  assert.equal(old.socket.types().includes('leave'), false);

  now.socket.say({ type: 'track-published', peer_id: 'me2', track: track('own2', 'video', { mid: '1' }) });
  pc.frames.set('2', 3);
  await both(300, pc, old.pc);
  assert.deepEqual(seen, ['left ada moved', 'joined ada2', 'track t2']);
  assert.deepEqual([...room.peers.keys()], ['ada2']);
  assert.equal(room.peerId, 'me2');
  assert.equal([...room.publications][0]!.id, 'own2');
  assert.equal(old.socket.types().includes('leave'), false, 'the others may not have our picture yet');
  await both(1200, pc);
  assert.equal(old.socket.types().at(-1), 'leave');
  assert.equal(old.pc.signalingState, 'closed');
  old.socket.drop(4503);
  await both(3000, pc);
  assert.deepEqual(states, [], 'connected all the time');
  assert.equal(FakeSocket.last, now.socket, 'and no third socket');
  room.leave();
  assert.equal(now.socket.types().at(-1), 'leave');
});

test('who leaves the old place before us is there still, at the new one', async (t) => {
  setUp(t);
  const { room, seen, old, down, now } = await moving();
  now.socket.say(joined([{ ...peer('ada2', track('t2')), user_id: 'user-ada', moving_from: 'ada' }], { peer_id: 'me2' }));
  now.socket.say({ type: 'turn-credentials', ...turn() });
  now.socket.say(down('t2', 'ada2'));
  await settle();
  old.socket.say({ type: 'peer-left', peer_id: 'ada', reason: 'left' });
  assert.deepEqual(seen, ['left ada moved', 'joined ada2', 'track t2']);
  room.leave();
});

test('moving_from of another user is not believed', async (t) => {
  setUp(t);
  const { room, seen, old, now } = await moving();
  now.socket.say(joined([{ ...peer('eve'), moving_from: 'ada' }], { peer_id: 'me2' }));
  await settle();
  assert.deepEqual(seen, ['joined eve'], 'somebody else');
  old.socket.say({ type: 'peer-left', peer_id: 'ada', reason: 'left' });
  assert.deepEqual(seen, ['joined eve', 'left ada left']);
  room.leave();
});

test('a new place that refuses leaves us at the old one until its end', async (t) => {
  setUp(t);
  const { room, states, seen, old, now } = await moving();
  now.socket.say({ type: 'error', code: 'locked', message: 'no', retryable: false });
  await both(4000, old.pc);
  assert.deepEqual([seen, states, old.socket.closedWith], [[], [], null]);
  assert.deepEqual([...room.peers.keys()], ['ada']);
  old.socket.drop(4503);
  await advance(500);
  assert.deepEqual(states, ['recovering']);
  assert.notEqual(FakeSocket.last, now.socket, 'and then the room is joined as after any loss');
  room.leave();
});

test('at the deadline the new place is taken, whoever is not there', async (t) => {
  setUp(t);
  const { room, states, seen, old, now } = await moving(3000);
  now.socket.say(joined([], { peer_id: 'me2' }));
  now.socket.say({ type: 'turn-credentials', ...turn() });
  now.socket.say({ type: 'offer', sdp: sdp(...slots), tracks: [] });
  await settle();
  const pc = FakePC.last;
  pc.connect();
  await both(1500, pc, old.pc);
  assert.deepEqual(seen, []);
  await both(1500, pc, old.pc);
  assert.deepEqual(seen, ['left ada moved']);
  assert.deepEqual([room.peerId, states], ['me2', []]);
  room.leave();
});

for (const cut of [false, true]) test(`an old place that ends too early is left for the new one${cut ? ', though its socket is lost just then' : ''}`, async (t) => {
  setUp(t);
  const { room, old, now } = await moving();
  now.socket.say(joined([{ ...peer('ada2', track('t2')), user_id: 'user-ada', moving_from: 'ada' }], { peer_id: 'me2' }));
  now.socket.say({ type: 'turn-credentials', ...turn() });
  await settle();
  if (cut) now.socket.drop(1006);
  old.socket.drop(4503);
  await advance(500);
  assert.deepEqual([[...room.peers.keys()], room.peerId], [['ada2'], 'me2']);
  if (cut) assert.equal(FakeSocket.last.find('join')!.resume, 'token', 'resumed there');
  else assert.equal(FakeSocket.last, now.socket, 'the socket that is there is enough');
  room.leave();
});

for (const cut of [false, true]) {
  test(`a room that has moved is joined anew, once, as a new peer${cut ? ', though its socket ends meanwhile' : ''}`, async (t) => {
    setUp(t);
    const { room } = await enter();
    const first = FakeSocket.last;
    first.say({ type: 'server-draining', reason: 'the room has moved', deadline_ms: 5000, reconnect: null });
    if (cut) first.drop(4503);
    await advance(2000);
    const socket = FakeSocket.last;
    assert.notEqual(socket, first);
    assert.equal(socket.url, first.url, 'any gateway knows where it is');
    assert.equal(socket.find('join')!.resume, undefined, 'the peer is not kept there');
    assert.equal(FakeSocket.all.filter((s) => s !== first && s.closedWith === null).length, 1, 'one socket is open');
    room.leave();
  });
}

test('pagehide says leave within the event, and stops what the SDK opened', async (t) => {
  const page = setUp(t);
  const { room, states } = await enter();
  page.dispatchEvent(new Event('pagehide'));
  assert.equal(FakeSocket.last.types().at(-1), 'leave');
  assert.equal(FakeSocket.last.closedWith, 1000);
  assert.equal(room.state, 'closed');
  assert.equal(states.at(-1), 'closed');
  await advance(30_000);
  assert.equal(FakeSocket.all.length, 1, 'and nothing comes after it');
  await assert.rejects(room.publish(new FakeTrack('audio') as unknown as MediaStreamTrack), { code: 'closed' });
});

test('kicked: closed for good, with the reason', async (t) => {
  setUp(t);
  const { room } = await enter();
  const errors: (OramaError | undefined)[] = [];
  room.on('state', ({ error }) => errors.push(error));
  FakeSocket.last.say({ type: 'kicked', reason: 'be nice' });
  FakeSocket.last.drop(4410);
  await advance(10_000);
  assert.equal(room.state, 'closed');
  assert.deepEqual([errors.at(-1)!.code, errors.at(-1)!.message], ['kicked', 'be nice']);
  assert.equal(FakeSocket.all.length, 1);
});

test('a host that dies without a word: its socket is doubted when media stops, and the first gateway that opens is taken', async (t) => {
  setUp(t);
  const { room } = await enter();
  FakeSocket.last.say({ ...joined([peer('ada')], { resumed: true }), gateways: ['http://gw.test', 'http://dead.test', 'http://alive.test', 'nonsense'] });
  await flow(2000);
  FakeSocket.deaf = true;
  FakeSocket.dead.add('gw.test').add('dead.test');
  const before = FakeSocket.all.length;
  await advance(8000, 100); // ICE and media are silent
  const tried = FakeSocket.all.slice(before).map((s) => new URL(s.url).host);
  assert.deepEqual(tried.slice(0, 2), ['dead.test', 'alive.test'], 'not the one that fell silent, and the next beside the one that does not open');
  const alive = FakeSocket.all.find((s) => new URL(s.url).host === 'alive.test')!;
  assert.equal(alive.find('join')?.resume, 'token');
  assert.equal(FakeSocket.all.filter((s) => s.readyState === 1 && s.closedWith === null && s !== alive).length, 0, 'the others are let go');
  room.leave();
});

test('a socket that stops answering is given up', async (t) => {
  setUp(t);
  const { room } = await enter();
  await flow(30_000);
  FakeSocket.deaf = true;
  await flow(5000);
  assert.equal(FakeSocket.last.find('ping')?.type, 'ping');
  assert.equal(FakeSocket.all.length, 1);
  await flow(8000);
  assert.equal(FakeSocket.all.length, 2);
  room.leave();
});

test('a refused token is renewed once when it can be, and is final when it cannot', async (t) => {
  const page = setUp(t);
  FakeSocket.refuse = true;
  page.answer = () => new Response(JSON.stringify({ code: 'bad_token', detail: 'expired' }), { status: 401 });
  let minted = 0;
  const renewing = assert.rejects(join('http://gw.test', { room: 'r', token: async () => `t${++minted}` }), { code: 'unauthorized' });
  await advance(1000);
  await renewing;
  assert.equal(minted, 2);

  const fixed = assert.rejects(join('http://gw.test', { room: 'r', token: 'jwt' }), { code: 'unauthorized', retryable: false });
  await advance(100);
  await fixed;
});

test('a gateway that cannot be reached is tried a few times, then told as retryable', async (t) => {
  const page = setUp(t);
  FakeSocket.refuse = true;
  page.answer = () => {
    throw new TypeError('no network');
  };
  const done = assert.rejects(join('http://gw.test', { room: 'r', token: 'jwt' }), (e: OramaError) => e.code === 'unreachable' && e.retryable);
  await advance(10_000);
  await done;
  assert.equal(FakeSocket.all.length, 5);
});

test('a token for another room is not even tried', async (t) => {
  setUp(t);
  const token = `x.${btoa(JSON.stringify({ webrtc: { room: 'other' } }))}.y`;
  await assert.rejects(join('http://gw.test', { room: 'r', token }), { code: 'forbidden' });
  assert.equal(FakeSocket.all.length, 0);
});

test('frames are paced below the limit of the server and keep their order', async (t) => {
  setUp(t);
  const { room } = await enter();
  const socket = FakeSocket.last;
  const before = socket.sent.length;
  for (let i = 0; i < 60; i++) room.prefer(`t${i}`, { paused: true });
  assert.ok(socket.sent.length - before <= 30);
  await flow(5000);
  const wishes = socket.sent.filter((m) => m.type === 'prefer').map((m) => m.track_id);
  assert.deepEqual(wishes, Array.from({ length: 60 }, (_, i) => `t${i}`));
  room.leave();
});

test('data and chat name their sender, and too much is refused', async (t) => {
  setUp(t);
  const { room } = await enter({ peers: [peer('ada')] });
  const got: unknown[] = [];
  room.on('data', ({ peerId, label, data }) => got.push([peerId, label, data]));
  room.on('chat', ({ peer, text }) => got.push([peer?.name, text]));
  const pc = FakePC.last;
  const incoming = pc.createDataChannel('chat', {});
  incoming.protocol = 'ada';
  pc.ondatachannel!({ channel: incoming });
  incoming.onmessage!({ data: 'hello' });
  assert.deepEqual(got, [['ada', 'hello'], ['ada', 'chat', 'hello']]);
  assert.throws(() => room.data('x').send('a'.repeat(65_537)), { code: 'too_large' });
  room.data('some', { ordered: false, sendTo: ['ada', 'bob'] });
  assert.deepEqual(pc.channels.at(-1)?.init, { ordered: false, protocol: 'to:ada,bob' });
  room.leave();
});

test('a listener that throws does not keep the others from hearing', async (t) => {
  setUp(t);
  const { room } = await enter();
  const heard: string[] = [];
  const thrown: unknown[] = [];
  mock.method(globalThis, 'queueMicrotask', (f: () => void) => {
    try {
      f();
    } catch (e) {
      thrown.push(e);
    }
  });
  room.on('peer-joined', () => {
    throw new Error('mine');
  });
  room.on('peer-joined', ({ peer }) => heard.push(peer.id));
  FakeSocket.last.say({ type: 'peer-joined', peer: peer('ada') });
  await settle();
  assert.deepEqual(heard, ['ada']);
  assert.equal(thrown.length, 1);
  room.leave();
});

test('moderation: what is asked goes out, and what an admin did is told', async (t) => {
  setUp(t);
  const { room } = await enter({ peers: [peer('bob', track('cam'))] });
  const socket = FakeSocket.last;
  room.kick({ userId: 'user-bob' }, 'spam');
  room.mute('cam', true, true);
  room.permit('bob', { ...permissions, publish: false });
  room.configure({ locked: true });
  room.update({ metadata: { hand: true } });
  room.lastN(2);
  assert.deepEqual(socket.sent.slice(-6), [
    { type: 'kick', user_id: 'user-bob', reason: 'spam' },
    { type: 'mute', track_id: 'cam', muted: true, locked: true },
    { type: 'permit', peer_id: 'bob', permissions: { ...permissions, publish: false } },
    { type: 'set-room', locked: true },
    { type: 'set-peer', metadata: { hand: true } },
    { type: 'last-n', videos: 2 },
  ]);
  const told: string[] = [];
  room.on('track-muted', ({ track: x }) => told.push(`muted ${x.muted} ${x.locked}`));
  room.on('track-held', ({ held }) => told.push(`held ${held}`));
  room.on('peer-changed', ({ peer: p }) => told.push(`${p.name} ${JSON.stringify(p.metadata)}`));
  room.on('permissions', ({ permissions: p }) => told.push(`publish ${p.publish}`));
  room.on('settings', ({ settings }) => told.push(`locked ${settings.locked}`));
  room.on('moderated', ({ muted, locked, by }) => told.push(`ours ${muted} ${locked} ${by}`));
  socket.say({ type: 'track-muted', peer_id: 'bob', track: track('cam', 'video', { muted: true, locked: true }), by: 'me' });
  socket.say({ type: 'held', track_ids: ['cam'] });
  socket.say({ type: 'held', track_ids: null });
  socket.say({ type: 'peer-changed', peer_id: 'bob', name: 'Robert', metadata: 1 });
  socket.say({ type: 'permissions-changed', peer_id: 'me', permissions: { ...permissions, publish: false }, by: 'api' });
  socket.say({ type: 'room-changed', settings: { locked: true, max_participants: 0 }, by: 'api' });
  socket.say({ type: 'track-published', peer_id: 'me', track: track('mine', 'video', { mid: '1', muted: true, locked: true }) });
  assert.deepEqual(told, ['muted true true', 'held true', 'held false', 'Robert 1', 'publish false', 'locked true', 'ours true true ']);
  assert.equal(socket.sent.at(-1)!.type, 'last-n', 'a locked track is not unmuted against the admin');
  assert.equal(room.permissions.publish, false);
  assert.equal(room.settings.locked, true);

  const dialled = FakeSocket.all.length;
  socket.say({ type: 'kicked', reason: 'spam' });
  socket.drop(4410);
  await advance(60_000, 100);
  assert.equal(FakeSocket.all.length, dialled, 'nobody comes back from a kick');
  assert.equal(room.state, 'closed');
});

test('a room that is joined anew is told again how many videos are wanted', async (t) => {
  setUp(t);
  const { room } = await enter();
  room.lastN(3);
  FakeSocket.last.drop(4503);
  await advance(2000, 20);
  FakeSocket.last.say(joined([], { peer_id: 'me2' }));
  assert.deepEqual(FakeSocket.last.find('last-n'), { type: 'last-n', videos: 3 });
  room.leave();
});
