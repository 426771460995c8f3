/** Which stretches of a call's sounds belong to which message. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { SoundTape, isSilent, wavOf } from '../../web/js/soundtape.js';
import { Utterances } from '../../web/js/utterances.js';

const RATE = 1000;

/** Samples that count: sample n of the tape is n + 1000, so that none is silence. */
function feeder() {
  let n = 1000;
  return (/** @type {number} */ count) => Int16Array.from({ length: count }, () => n++);
}

/** @param {import('../../web/js/utterances.js').Side} side */
function listening(side) {
  const utterances = new Utterances();
  /** @type {any[]} */ const told = [];
  utterances.addEventListener('sound', (event) => told.push(/** @type {CustomEvent} */ (event).detail));
  utterances.begin(side, RATE);
  const next = feeder();
  return { utterances, told, hear: (/** @type {number} */ count) => utterances.push(side, next(count)) };
}

test('a tape holds the last seconds, and all of a stretch that is held, within a bound', () => {
  const tape = new SoundTape(10, { lead_s: 2, most_s: 5 });
  const next = feeder();
  for (let i = 0; i < 10; i += 1) tape.push(next(10));
  assert.deepEqual([tape.passed_s, tape.cut(0, 10).length, tape.cut(0, 10)[0]], [10, 20, 1080]);
  tape.isHeld = true;
  for (let i = 0; i < 10; i += 1) tape.push(next(10));
  assert.equal(tape.cut(0, 20).length, 50);
  assert.deepEqual([...tape.cut(18.85, 19.05)], [1189, 1190]);
  assert.equal(tape.cut(30, 20).length, 0);
});

test('speech is cut from before it was noticed to where the server says it ended', () => {
  const { utterances, told, hear } = listening('user');
  hear(2000);
  utterances.apply({ type: 'input_audio_buffer.speech_started', item_id: 'u1', audio_start_ms: 100 }, false);
  hear(3000);
  utterances.apply({ type: 'input_audio_buffer.speech_stopped', item_id: 'u1', audio_end_ms: 1100 }, false);
  const [{ id, samples, rate }] = told;
  assert.deepEqual([id, rate, samples[0], samples.length], ['u1', RATE, 2500, 1800]);
});

test('what the button held is one sound, under the item that the server makes of it', () => {
  const { utterances, told, hear } = listening('user');
  hear(500);
  utterances.held(true);
  hear(700);
  utterances.apply({ type: 'input_audio_buffer.speech_started', item_id: 'x', audio_start_ms: 0 }, true);
  utterances.held(false);
  utterances.apply({ type: 'input_audio_buffer.committed', item_id: 'u1' }, true);
  assert.deepEqual(told.map(({ id, samples }) => [id, samples[0], samples.length]), [['u1', 1500, 700]]);
  utterances.held(true);
  hear(100);
  utterances.dropped();
  utterances.apply({ type: 'input_audio_buffer.committed', item_id: 'u2' }, true);
  assert.equal(told.length, 1);
});

test('an answer is what was played of it', async () => {
  const { utterances, told, hear } = listening('assistant');
  hear(1000);
  utterances.apply({ type: 'output_audio_buffer.started', response_id: 'r1' }, false);
  hear(600);
  utterances.apply({ type: 'output_audio_buffer.cleared', response_id: 'another' }, false);
  utterances.apply({ type: 'output_audio_buffer.cleared', response_id: 'r1' }, false);
  hear(300);
  await new Promise((resolve) => { utterances.addEventListener('sound', resolve); });
  assert.deepEqual(told.map(({ id, samples }) => [id, samples[0], samples.length]), [['r1', 1900, 1000]]);
});

test('what is too short or silent is no sound', () => {
  const { utterances, told } = listening('user');
  for (const block of [new Int16Array(900), new Int16Array(50).fill(9000)]) {
    utterances.held(true);
    utterances.push('user', block);
    utterances.held(false);
    utterances.apply({ type: 'input_audio_buffer.committed', item_id: 'u' }, true);
  }
  assert.deepEqual(told, []);
  assert.ok(isSilent(new Int16Array(10)) && !isSilent(Int16Array.of(0, -500)));
});

test('a WAV file says how long it is', async () => {
  const file = wavOf(Int16Array.of(1, -2, 3), 16_000);
  const view = new DataView(await file.arrayBuffer());
  assert.deepEqual([file.type, file.size, view.getUint32(24, true), view.getUint32(40, true)], ['audio/wav', 50, 16_000, 6]);
  assert.equal(view.getInt16(46, true), -2);
});
