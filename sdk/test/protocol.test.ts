import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { afterClose } from '../src/errors.js';
import { decode, encode, messageTypes } from '../src/protocol.js';

const repository = new URL('../../../', import.meta.url);
const golden = new URL('internal/signal/testdata/golden/', repository);

test('every golden file is understood and comes out as it went in', () => {
  for (const file of readdirSync(golden)) {
    const text = readFileSync(new URL(file, golden), 'utf8');
    const m = decode(text);
    assert.ok(m, `${file} is refused`);
    assert.equal(`${m.type}.json`, file);
    assert.deepEqual(JSON.parse(encode(m)), JSON.parse(text), file);
    assert.ok(encode(m).startsWith(`{"type":"${m.type}"`), 'type comes first');
  }
});

test('there is a golden file for every type, and a type for every file', () => {
  assert.deepEqual(readdirSync(golden).map((f) => f.replace('.json', '')).sort(), [...messageTypes].sort());
});

test('a field of the wrong type spoils its message, an unknown field does not', () => {
  for (const file of readdirSync(golden)) {
    const m = JSON.parse(readFileSync(new URL(file, golden), 'utf8')) as Record<string, unknown>;
    assert.ok(decode(JSON.stringify({ ...m, novel: { a: 1 } })), `${file} with a field more`);
    for (const key of Object.keys(m)) {
      if (key === 'metadata' || key === 'type') continue;
      assert.equal(decode(JSON.stringify({ ...m, [key]: { not: 'it' } })), null, `${file} with a wrong ${key}`);
    }
  }
});

test('what is no message is refused without a throw', () => {
  for (const frame of ['', '{', 'null', '1', '"offer"', '[]', '{}', '{"type":1}', '{"type":"toString"}', '{"type":"__proto__"}', '{"type":"nope"}', new ArrayBuffer(2), undefined]) {
    assert.equal(decode(frame), null, String(frame));
  }
});

test('close codes are what docs/protocol.md says', () => {
  const doc = readFileSync(new URL('docs/protocol.md', repository), 'utf8');
  const rows = [...doc.slice(doc.indexOf('## Close codes')).matchAll(/^\| (\d{4}) \|[^|]*\| ([^|]+?) \|$/gm)];
  assert.ok(rows.length >= 10, 'the table was found');
  const next: Record<string, string> = { 'no': 'stop', 'yes': 'now', 'yes, at once': 'now', 'yes, after a while': 'later', 'with a new token': 'new-token' };
  for (const [, code, reconnect] of rows) {
    const got = afterClose(Number(code));
    assert.equal(got.next, next[reconnect!], `close code ${code}`);
    assert.equal(got.error.retryable, got.next !== 'stop', `close code ${code}`);
  }
  assert.equal(afterClose(1006).next, 'now', 'a network that failed');
});
