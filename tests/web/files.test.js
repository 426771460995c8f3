/** The files of the messages that are shown. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Files } from '../../web/js/files.js';

const MB = 1024 * 1024;
const blob = (/** @type {number} */ mb) => /** @type {any} */ ({ size: mb * MB });

test('files are found by message and place, and the oldest go where there is no room', () => {
  const files = new Files();
  /** @type {string[]} */ const told = [];
  files.addEventListener('change', (event) => told.push(/** @type {CustomEvent} */ (event).detail.row));
  files.add('u1', 0, blob(40));
  files.add('u1', 1, blob(10));
  files.add('u1', 1, blob(20));
  files.add('a1', -1, blob(30));
  assert.deepEqual([[...files.of('u1').keys()], [...files.of('a1').keys()], files.of('none').size], [[0, 1], [-1], 0]);
  files.add('u2', 0, blob(40));
  assert.deepEqual([files.of('u1').size, files.of('a1').size, files.of('u2').size], [0, 1, 1]);
  assert.deepEqual(told, ['u1', 'u1', 'u1', 'a1', 'u1', 'u2']);
});

test('one that is larger than all the room is kept for as long as nothing else comes', () => {
  const files = new Files();
  files.add('u1', 0, blob(200));
  assert.equal(files.of('u1').size, 1);
  files.add('u2', 0, blob(1));
  assert.deepEqual([files.of('u1').size, files.of('u2').size], [0, 1]);
});
