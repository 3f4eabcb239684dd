import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Expected, type Flow, FlowWatch } from '../src/flow.js';
import { backoff } from '../src/retry.js';

/** Drives a watch every 250 ms. */
class Line {
  readonly watch = new FlowWatch();
  at = 0;
  received = 0;
  checks = 0;
  connected = true;
  broken = false;
  expected: Expected = 'media';

  run(ms: number, packets: (at: number) => number): Flow {
    for (const end = this.at + ms; this.at < end;) {
      this.at += 250;
      this.received += packets(this.at);
      this.watch.update({ ...this });
    }
    return this.watch.state;
  }
}

const media = () => 25;
const none = () => 0;

test('flowing needs packets, not only a connection', () => {
  const line = new Line();
  assert.equal(line.run(3000, none), 'unknown');
  assert.equal(line.run(1000, media), 'flowing');
});

test('a connection that is never made stalls', () => {
  const line = new Line();
  line.connected = false;
  assert.equal(line.run(8000, none), 'unknown');
  assert.equal(line.run(1500, none), 'stalled');
});

test('an empty room is connected by its handshake alone', () => {
  const line = new Line();
  line.expected = 'nothing';
  assert.equal(line.run(500, none), 'flowing');
  assert.equal(line.run(60_000, none), 'flowing', 'and silence is not loss there');
});

test('silence while media is expected is loss after about 0.9 s', () => {
  const line = new Line();
  line.run(10_000, media);
  assert.equal(line.run(750, none), 'flowing');
  assert.equal(line.run(500, none), 'stalled');
});

test('half of that silence is a reason to ask after the socket', () => {
  const line = new Line();
  line.run(10_000, media);
  assert.equal(line.watch.doubtful({ ...line }), false);
  line.run(250, none);
  assert.equal(line.watch.doubtful({ ...line }), false, 'one late packet is none');
  line.run(250, none);
  assert.equal(line.watch.doubtful({ ...line }), true);
  line.run(250, media);
  assert.equal(line.watch.doubtful({ ...line }), false);
});

test('everybody muting is not loss', () => {
  const line = new Line();
  line.run(10_000, media);
  line.expected = 'nothing';
  assert.equal(line.run(30_000, none), 'flowing');
  line.expected = 'media';
  assert.equal(line.run(750, none), 'flowing', 'patience begins anew when somebody unmutes');
  assert.equal(line.run(500, none), 'stalled');
});

test('sparse traffic is not loss', () => {
  const line = new Line();
  let i = 0;
  assert.equal(line.run(60_000, () => (i++ % 4 === 0 ? 1 : 0)), 'flowing', 'a packet a second');
  line.expected = 'reports';
  i = 0;
  assert.equal(line.run(60_000, () => (i++ % 6 === 0 ? 1 : 0)), 'flowing', 'a report each 1.5 s');
});

test('a late timer does not make traffic look sparse', () => {
  const line = new Line();
  line.run(5000, media);
  line.at += 4000; // the page was busy
  line.run(500, () => 200);
  assert.equal(line.run(2000, none), 'stalled');
});

test('ICE that says broken is believed at once', () => {
  const line = new Line();
  line.run(5000, media);
  line.broken = true;
  assert.equal(line.run(250, media), 'stalled');
});

test('after a stall packets prove the path; checks alone only after a while', () => {
  const line = new Line();
  line.run(5000, media);
  line.run(3000, none);
  line.watch.restart();
  line.checks++;
  assert.equal(line.run(2500, none), 'stalled');
  assert.equal(line.run(1500, none), 'flowing', 'the publisher is silent, not the path');
  assert.equal(line.run(60_000, none), 'flowing', 'which stays so');
  line.run(1000, media);
  assert.equal(line.run(3000, none), 'stalled', 'until the publisher was heard again');

  line.run(5000, media);
  line.run(3000, none);
  line.watch.restart();
  assert.equal(line.run(500, media), 'flowing');
});

test('after a stall without an answered check nothing flows however long it takes', () => {
  const line = new Line();
  line.run(5000, media);
  assert.equal(line.run(60_000, none), 'stalled');
});

test('backoff is at once, then grows to its cap, then gives up', () => {
  const slow = backoff({ base: 100, cap: 1000, tries: 8, random: () => 0 });
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 7, 8].map((n) => slow.delay(n)), [0, 100, 200, 400, 800, 1000, 1000, 1000, null]);
  const fast = backoff({ base: 100, cap: 1000, tries: 8, random: () => 1 });
  assert.deepEqual([1, 2, 6].map((n) => fast.delay(n)), [50, 100, 500], 'half of it is chance');
});
