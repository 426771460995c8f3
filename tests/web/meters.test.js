/** A microphone from which nothing comes. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { SilenceWatch } from '../../web/js/meters.js';

/** @param {SilenceWatch} watch @param {number} level_db @param {number} from_s @param {number} to_s */
function hear(watch, level_db, from_s, to_s, isListening = true) {
  for (let at_s = from_s; at_s < to_s; at_s += 0.05) watch.read(level_db, isListening, 1000 + at_s * 1000);
  return watch.isSilent;
}

test('it is noticed within five seconds that nothing comes, and that something comes again', () => {
  const watch = new SilenceWatch();
  assert.equal(hear(watch, -Infinity, 0, 3.9), false);
  assert.equal(hear(watch, -Infinity, 3.9, 5), true);
  assert.equal(hear(watch, -40, 5, 5.1), false);
});

test('a quiet room is no dead microphone, nor is one that noise suppression has silenced', () => {
  const watch = new SilenceWatch();
  assert.equal(hear(watch, -68, 0, 20), false);
  assert.equal(hear(watch, -20, 20, 21), false);
  assert.equal(hear(watch, -90, 21, 60), false);
  assert.equal(hear(watch, -Infinity, 60, 66), true);
});

test('nobody is missed who is muted, and another microphone is judged anew', () => {
  const watch = new SilenceWatch();
  assert.equal(hear(watch, -Infinity, 0, 20, false), false);
  hear(watch, -Infinity, 20, 30);
  watch.reset();
  assert.equal(watch.isSilent, false);
});
