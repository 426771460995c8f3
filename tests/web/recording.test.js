/** A recorded call that is looked at: its sound read in pieces, both sides on one clock, its words and pictures in time. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { RecordedPlayer } from '../../web/js/recordedplayer.js';
import { RecordedSide, soundIn } from '../../web/js/recordedside.js';
import { beginningsOf, lastBy, timed } from '../../web/js/recordedwords.js';

/** @param {number} hz @param {number[]} samples @returns {Blob} as the server writes it */
function wav(hz, samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  view.setUint32(24, hz, true);
  samples.forEach((sample, at) => view.setInt16(44 + 2 * at, sample, true));
  return new Blob([view.buffer]);
}

/** @param {number} count @param {number} value */
const steady = (count, value) => new Array(count).fill(value);

/** @param {{blob: Blob, begin_s: number}[]} files */
async function sideOf(files) {
  return new RecordedSide(await Promise.all(files.map(async ({ blob, begin_s }) => ({ .../** @type {any} */ (await soundIn(blob)), begin_s }))));
}

test('sound is read where it is asked for, over all of its files', async () => {
  const files = [{ blob: wav(100, [...steady(100, 16384), ...steady(100, -16384)]), begin_s: 0 }, { blob: wav(100, steady(50, 8192)), begin_s: 5 }];
  const side = await sideOf(files);
  const [piece, ...none] = await side.samples(0.9, 1.1);
  assert.deepEqual([none, piece.at_s, piece.hz, piece.samples.length], [[], 0.9, 100, 20]);
  assert.deepEqual([piece.samples[9], piece.samples[10]], [0.5, -0.5]);
  assert.deepEqual(await side.samples(2, 5), []);
  const all = await side.samples(1.5, 9);
  assert.deepEqual(all.map(({ at_s, samples }) => [at_s, samples.length]), [[1.5, 50], [5, 50]]);
});

test('levels tell who spoke when, and are the same however the sound is cut', async () => {
  const side = await sideOf([{ blob: wav(1000, [...steady(1000, 0), ...steady(1000, 16384)]), begin_s: 0 }]);
  assert.deepEqual(await side.levels(4, 4), [0, 0.5, 0, 0]);
  const [quiet, loud] = await side.levels(2, 2);
  assert.deepEqual([quiet, loud], [0, 0.5]);
  await assert.rejects(side.levels(2, 2, AbortSignal.abort()), { name: 'AbortError' });
});

/** A context whose clock the test moves, and what was handed to it. */
class FakeContext {
  currentTime = 100;
  /** @type {{at: number, offset: number, hz: number, length: number, isStopped: boolean}[]} */ started = [];
  isClosed = false;
  destination = {};

  async resume() {}

  async close() {
    this.isClosed = true;
  }

  /** @param {number} _ @param {number} length @param {number} hz */
  createBuffer(_, length, hz) {
    return { length, hz, copyToChannel() {} };
  }

  createBufferSource() {
    const context = this;
    /** @type {any} */ let row = null;
    return {
      /** @type {any} */ buffer: null,
      connect() {},
      addEventListener() {},
      /** @param {number} at @param {number} offset */
      start(at, offset) {
        row = { at, offset, hz: this.buffer.hz, length: this.buffer.length, isStopped: false };
        context.started.push(row);
      },
      stop() {
        row.isStopped = true;
      },
    };
  }
}

const PATIENCE_MS = 60_000;

/** @param {() => boolean} isThere */
async function until(isThere) {
  const end_ms = performance.now() + PATIENCE_MS;
  while (!isThere()) {
    assert.ok(performance.now() < end_ms, String(isThere));
    await new Promise((resolve) => { setTimeout(resolve, 5); });
  }
}

test('both sides are played on one clock, from where it is put, and no further than to the end', async () => {
  const user = await sideOf([{ blob: wav(100, steady(2000, 1)), begin_s: 0 }]);
  const assistant = await sideOf([{ blob: wav(150, steady(2250, 1)), begin_s: 0 }]);
  const context = new FakeContext();
  const player = new RecordedPlayer([user, assistant], 20, /** @type {any} */ (context));
  assert.equal(player.length_s, 20);
  player.seek(3);
  assert.deepEqual([player.position_s, player.isPlaying, context.started], [3, false, []]);
  const playing = player.play();
  await until(() => context.started.length === 4);
  const zero_s = 100.05 - 3;
  const near = (/** @type {number} */ one, /** @type {number} */ other) => assert.ok(Math.abs(one - other) < 1e-9, `${one} ${other}`);
  context.started.forEach(({ at, offset, hz }, index) => {
    near(at, zero_s + (index < 2 ? 3 : 11));
    assert.deepEqual([offset, hz], [0, index % 2 ? 150 : 100]);
  });
  context.currentTime = 110.05;
  near(player.position_s, 13);
  await until(() => context.started.length === 5);
  near(context.started[4].at, zero_s + 19);
  player.seek(19.5);
  assert.ok(context.started.every(({ isStopped }) => isStopped));
  await until(() => context.started.length === 6);
  assert.equal(context.started[5].length, 50);
  context.currentTime += 5;
  assert.equal(player.position_s, 20);
  await until(() => !player.isPlaying);
  assert.equal(player.position_s, 20);
  await playing;
  player.close();
  assert.ok(context.isClosed);
});

test('what was read too late is played from where the other side is by then', async () => {
  const side = await sideOf([{ blob: wav(100, steady(300, 1)), begin_s: 0 }]);
  const context = new FakeContext();
  const slow = { samples: async (/** @type {number} */ from_s, /** @type {number} */ to_s) => {
    context.currentTime += 1.05;
    return side.samples(from_s, to_s);
  } };
  const player = new RecordedPlayer([slow], 3, /** @type {any} */ (context));
  player.play();
  await until(() => context.started.length === 1);
  assert.ok(Math.abs(context.started[0].offset - 1) < 1e-9);
  assert.ok(Math.abs(context.started[0].at - context.currentTime) < 1e-9);
  player.pause();
  assert.ok(Math.abs(player.position_s - 1) < 1e-9);
});

test('who seeks while the sound begins to play hears it from there', async () => {
  const side = await sideOf([{ blob: wav(100, steady(2000, 1)), begin_s: 0 }]);
  const context = new FakeContext();
  /** @type {(() => void)[]} */ const awaken = [];
  context.resume = () => new Promise((resolve) => { awaken.push(resolve); });
  const player = new RecordedPlayer([side], 20, /** @type {any} */ (context));
  player.play();
  player.seek(4);
  player.seek(9);
  assert.deepEqual([player.isPlaying, player.position_s], [true, 9]);
  for (const wake of awaken) wake();
  await until(() => context.started.length > 0);
  context.currentTime = 101.05;
  assert.ok(Math.abs(player.position_s - 10) < 1e-9);
  player.pause();
  player.play();
  player.pause();
  for (const wake of awaken) wake();
  assert.ok(!player.isPlaying);
});

test('sound that cannot be read stops the player, which says so once', async () => {
  let errors = 0;
  const broken = { samples: async () => { throw new DOMException('', 'NotReadableError'); } };
  const player = new RecordedPlayer([broken], 20, /** @type {any} */ (new FakeContext()));
  player.addEventListener('error', () => { errors += 1; });
  player.seek(2);
  await player.play();
  assert.deepEqual([player.isPlaying, player.position_s, errors], [false, 2, 1]);
  const late = player.play();
  player.close();
  await late;
  assert.equal(errors, 1);
});

const rows = (/** @type {any[]} */ ...values) => values.map((value) => JSON.stringify(value)).join('\n');
const kept = { began_at: [1002], sounds: [[], []], words: '', feedback: '', seen: '' };
const near = (/** @type {number} */ value) => Math.round(1000 * value) / 1000;

test('words are told once, as they stood at the end, from when they began, with what was thought of them', () => {
  const words = rows(
    { item_id: 'a', role: 'user', text: 'Hel', at: 1009, began_at: 1004.5 },
    { item_id: 'b', role: 'assistant', text: 'Hi.', at: 1012, began_at: 1003 },
    { item_id: 'a', role: 'user', text: 'Hello.', at: 1013, began_at: 1013 },
    { item_id: 'c', role: 'user', text: 'Before.', at: 1001, began_at: 1001 },
  );
  const feedback = rows({ item_id: 'b', rating: 'up', comment: '' }, { item_id: 'b', rating: 'down', comment: 'No.' }, { item_id: 'x', rating: 'up' });
  const { lines } = timed({ ...kept, words: `${words}\n{"item_id": "half`, feedback });
  assert.deepEqual(lines.map(({ id, at_s, text }) => [id, at_s, text]), [['c', 0, 'Before.'], ['b', 2, 'Hi.'], ['a', 3.5, 'Hello.']]);
  assert.deepEqual([lines[1].rating, lines[1].comment, lines[0].rating], ['down', 'No.', undefined]);
  assert.deepEqual([lastBy(lines, 0.5)?.id, lastBy(lines, 2)?.id, lastBy(lines, 60)?.id, lastBy(lines.slice(1), 0)], ['c', 'b', 'a', null]);
  assert.deepEqual([beginningsOf({ began_at: 1000, sounds_began_at: [1002, 1050] }), beginningsOf({ began_at: 1000 })], [[1002, 1050], [1000]]);
});

test('what was written and seen without any sound has its time, too', () => {
  const words = rows({ item_id: 'a', role: 'user', text: 'Look.', at: 1005, began_at: 1005 });
  const seen = rows({ at: 1004, start: 0, size: 9 }, { at: 1011, start: 9, size: 9 });
  const { lines, pictures, length_s } = timed({ ...kept, words, seen });
  assert.deepEqual([lines[0].at_s, pictures.map(({ at_s }) => at_s), length_s], [1, [0, 7], 7]);
  assert.deepEqual([timed(kept).length_s, timed({ ...kept, sounds: [[null], [null]] }).length_s], [0, 0]);
});

test('what comes before the sound and after it lies within the recording', async () => {
  const sounds = [[await soundIn(wav(100, steady(300, 1)))], [null]];
  const seen = rows({ at: 992, start: 0, size: 9 }, { at: 1011, start: 9, size: 9 });
  const { pictures, sides, length_s } = timed({ ...kept, sounds, seen });
  assert.deepEqual([pictures.map(({ at_s }) => at_s), length_s], [[0, 19], 19]);
  assert.equal((await sides[0].samples(0, 19))[0].at_s, 10);
});

test('both sides, words and pictures stay together over a change of media worker', async () => {
  const second = async (/** @type {number} */ count) => soundIn(wav(100, steady(100 * count, 1)));
  // The first worker's sound goes on for longer than to where the second one's begins, on one side.
  const sounds = [[await second(50), await second(5), await second(1)], [await second(30), await second(5), await soundIn(wav(100, []))]];
  const words = rows({ item_id: 'a', role: 'user', text: 'Old.', at: 1041, began_at: 1041 }, { item_id: 'b', role: 'user', text: 'New.', at: 1043, began_at: 1043 });
  const seen = rows({ at: 1043, start: 0, size: 9 });
  const { lines, pictures, sides, length_s } = timed({ ...kept, began_at: [1002, 1042, 1100], sounds, words, seen });
  const begun = await Promise.all(sides.map(async (side) => (await side.samples(0, 200)).map(({ at_s }) => near(at_s))));
  assert.deepEqual(begun, [[0, 50, 98], [0, 50]]);
  assert.deepEqual([lines.map(({ at_s }) => near(at_s)), near(pictures[0].at_s), near(length_s)], [[39, 51], 51, 99]);
});
