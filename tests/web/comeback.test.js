/** When to call again, and what a new session is told. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Backoff, retelling, withCopies } from '../../web/lib/comeback.js';
import { ending, mayComeBack } from '../../web/lib/endings.js';
import { Refusal } from '../../web/lib/server.js';

test('the first attempt is made at once, the waits after it double up to a limit', () => {
  const backoff = new Backoff({ first_ms: 500, most_ms: 3000, for_ms: 60_000 }, () => 1);
  assert.deepEqual([0, 1, 2, 3, 4, 5].map((second) => backoff.next(second * 1000)), [0, 500, 1000, 2000, 3000, 3000]);
});

test('waits are spread, so that many clients do not come back together', () => {
  const waits = [0, 0.5, 1].map((random) => {
    const backoff = new Backoff({ first_ms: 1000 }, () => random);
    backoff.next(0);
    return backoff.next(0);
  });
  assert.deepEqual(waits, [500, 750, 1000]);
});

test('it gives up after a time, and begins anew after a success', () => {
  const backoff = new Backoff({ first_ms: 500, for_ms: 10_000 }, () => 1);
  assert.equal(backoff.next(0), 0);
  assert.equal(backoff.next(9_800), null);
  backoff.reset();
  assert.equal(backoff.next(9_800), 0);
});

test('the wait is as long as the server asks', () => {
  const backoff = new Backoff({ first_ms: 500 }, () => 1);
  assert.equal(backoff.next(0, 7_000), 7_000);
});

test('what both sides said is told in order and under its ids, notes and empty rows are not', () => {
  /** @type {any[]} */ const rows = [
    { id: 'u1', role: 'user', text: 'Hello.', status: 'done' },
    { id: 'note-1', role: 'note', text: 'Error: none', status: 'done' },
    { id: 'a1', role: 'assistant', text: 'Good', status: 'cut' },
    { id: 'u2', role: 'user', text: '', status: 'unwritten' },
  ];
  assert.deepEqual(retelling(rows).map((event) => event.item), [
    { id: 'u1', type: 'message', role: 'user', content: [{ type: 'input_text', text: 'Hello.' }] },
    { id: 'a1', type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Good' }] },
  ]);
});

test('of a long conversation the newest is told', () => {
  /** @type {any[]} */ const rows = Array.from({ length: 100 }, (_, i) => ({ id: `u${i}`, role: 'user', text: 'x', status: 'done' }));
  const told = retelling(rows);
  assert.deepEqual([told.length, told.at(-1)?.item.id], [40, 'u99']);
  assert.deepEqual(retelling([{ ...rows[0], text: 'y'.repeat(9_000) }, { ...rows[1], text: 'z'.repeat(9_000) }]).length, 1);
});

test('what was lost may come back, what was ended on purpose or refused for good does not', () => {
  const refused = (/** @type {any} */ kind) => ending('refused', { refusal: new Refusal(kind, '') });
  const back = [ending('lost'), ending('no_path'), ending('server', { reason: 'engine_gone' }), refused('away'), refused('busy')];
  for (const end of back) assert.ok(mayComeBack(end, true), JSON.stringify(end));
  const over = [ending('hangup'), ending('left'), ending('server', { reason: 'goodbye' }), ending('server', { reason: 'max_duration' }), refused('key'), refused('rejected')];
  for (const end of over) assert.ok(!mayComeBack(end, true), JSON.stringify(end));
  assert.ok(!mayComeBack(ending('lost'), false), 'there is no conversation to bring back');
});

test('every end has words, the server’s own where there are some', () => {
  assert.match(ending('refused', { refusal: new Refusal('key', '') }).message, /access key/);
  assert.equal(ending('refused', { refusal: new Refusal('busy', 'Two wait.') }).message, 'Two wait.');
  assert.equal(ending('server', { reason: 'goodbye', message: 'Goodbye.' }).message, 'Goodbye.');
  assert.match(ending('lost').message, /lost/);
});

test('an answer prefers copies of earlier sound, or does not, where they were agreed on', () => {
  const answer = (/** @type {string} */ formats, /** @type {string} */ map) =>
    `v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF ${formats}\r\na=rtpmap:111 opus/48000/2\r\n${map}m=video 9 UDP/TLS/RTP/SAVPF 96\r\n`;
  const red = 'a=rtpmap:63 red/48000/2\r\n';
  assert.equal(withCopies(answer('111 63', red), true), answer('63 111', red));
  assert.equal(withCopies(answer('63 111', red), false), answer('111 63', red));
  for (const isWanted of [true, false]) assert.equal(withCopies(answer('111', ''), isWanted), answer('111', ''));
});
