/** A file as the source of a call: silence, the file, silence, the end. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { nextStage, sizeOf } from '../../web/js/filesource.js';
import { isAnswerAwaited } from '../../web/js/standins.js';

test('the file is played between two silences, and then it is over', () => {
  const silence = { lead_s: 1, padding_s: 5 };
  assert.equal(nextStage('ready', 100, silence, false), 'ready');
  assert.equal(nextStage('lead', 0.9, silence, false), 'lead');
  assert.equal(nextStage('lead', 1, silence, false), 'playing');
  assert.equal(nextStage('playing', 100, silence, false), 'playing');
  assert.equal(nextStage('playing', 3, silence, true), 'padding');
  assert.equal(nextStage('padding', 4.9, silence, true), 'padding');
  assert.equal(nextStage('padding', 5, silence, true), 'over');
  assert.equal(nextStage('over', 100, silence, true), 'over');
});

test('the end waits for an answer, and for a server that has yet to make out what it heard', () => {
  const heard = { role: 'user', status: 'done' };
  assert.ok(isAnswerAwaited('speaking', []) && isAnswerAwaited('thinking', []));
  assert.ok(!isAnswerAwaited('listening', [/** @type {any} */ (heard)]));
  assert.ok(isAnswerAwaited('listening', [/** @type {any} */ (heard), { role: 'user', status: 'growing' }]));
  assert.ok(!isAnswerAwaited('listening', [{ role: 'assistant', status: 'growing' }]));
});

test('pictures keep their shape, have even sides and are no larger than needed', () => {
  assert.deepEqual(sizeOf(640, 480), [640, 480]);
  assert.deepEqual(sizeOf(3840, 2160), [1280, 720]);
  assert.deepEqual(sizeOf(1081, 1921), [720, 1280]);
  assert.deepEqual(sizeOf(1, 1), [2, 2]);
});
