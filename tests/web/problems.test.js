/** What went wrong, in words that help. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { deviceProblem, endingProblem } from '../../web/js/problems.js';

const KINDS = /** @type {const} */ (['denied', 'denied_by_system', 'none', 'in_use', 'unknown']);

test('every trouble with a device has a title, words and something to press', () => {
  for (const device of /** @type {const} */ (['microphone', 'camera'])) {
    for (const kind of KINDS) {
      const problem = deviceProblem(/** @type {any} */ ({ device, kind }));
      assert.ok(problem.title.includes(device), `${device} ${kind}`);
      assert.ok(problem.text && problem.actions.length, `${device} ${kind}`);
    }
  }
});

test('who has no microphone is offered a call without one', () => {
  const problem = deviceProblem(/** @type {any} */ ({ device: 'microphone', kind: 'none' }));
  assert.ok(problem.actions.some((action) => action.id === 'listen'));
});

test('a normal end needs no words', () => {
  assert.equal(endingProblem(/** @type {any} */ ({ kind: 'hangup' }), true), null);
});

test('a lost call is told apart from a lost server', () => {
  assert.equal(endingProblem(/** @type {any} */ ({ kind: 'lost' }), true)?.kind, 'lost');
  assert.equal(endingProblem(/** @type {any} */ ({ kind: 'lost' }), false)?.kind, 'lost_away');
});

test('a busy server says when to come back, a refusal what the server said', () => {
  const busy = endingProblem(/** @type {any} */ ({ kind: 'refused', refusal: { kind: 'busy', retryAfter_s: 12 } }), true);
  assert.equal(busy?.retryAfter_s, 12);
  const rejected = endingProblem(/** @type {any} */ ({ kind: 'refused', refusal: { kind: 'rejected', message: 'No audio.' } }), true);
  assert.match(rejected?.text ?? '', /No audio\./);
});
