/** What the page says about where the call stands. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Countdown } from '../../web/js/talk.js';
import { hintOf, isInCall, phaseOf, recordedSign, wordsOf } from '../../web/js/phase.js';

/** @param {Partial<{turn: string, queue: {position: number, eta_s: number|null}}>} [talk] @returns {any} */
const talking = (talk = {}) => ({ turn: 'listening', queue: { position: 0, eta_s: null }, ...talk });

test('before a call the page is idle, and after one it says that it ended', () => {
  const none = { call: null, talk: talking(), isAsking: false };
  assert.equal(phaseOf({ ...none, wasInCall: false }), 'idle');
  assert.equal(phaseOf({ ...none, wasInCall: true }), 'ended');
  assert.equal(phaseOf({ ...none, wasInCall: true, isAsking: true }), 'permission');
});

test('a call that is not connected is connecting, whatever its turn says', () => {
  const call = (/** @type {string} */ state) => /** @type {any} */ ({ state });
  const now = { isAsking: false, wasInCall: true };
  assert.equal(phaseOf({ ...now, call: call('connecting'), talk: talking({ turn: 'speaking' }) }), 'connecting');
  assert.equal(phaseOf({ ...now, call: call('reconnecting'), talk: talking() }), 'reconnecting');
  assert.equal(phaseOf({ ...now, call: call('connected'), talk: talking({ turn: 'speaking' }) }), 'speaking');
});

test('who waits is told the place and the time as far as they are known', () => {
  const waiting = (/** @type {number|null} */ eta_s) => talking({ queue: { position: 3, eta_s } });
  const hint = (/** @type {number} */ wait_s) => hintOf('queued', /** @type {any} */ ({ wait_s }));
  assert.equal(wordsOf('queued', waiting(null), false), 'Waiting in line: place 3');
  assert.equal(hint(0), 'The call starts by itself.');
  assert.equal(hint(41.2), 'About 42 s left. The call starts by itself.');
  assert.equal(hint(121), 'About 3 min left. The call starts by itself.');
  assert.match(hint(1), /^Any moment now/);
});

test('a wait counts down and stays at one second until it is over', () => {
  const wait = new Countdown();
  assert.equal(wait.left_s(0), 0);
  wait.set(20, 1000);
  assert.deepEqual([1000, 6000, 60_000].map((now_ms) => wait.left_s(now_ms)), [20, 15, 1]);
});

test('only idle and ended are outside a call', () => {
  assert.deepEqual(['idle', 'ended', 'queued', 'reconnecting'].map((phase) => isInCall(/** @type {any} */ (phase))), [false, false, true, true]);
});

test('a call shows what it was told is kept of it, whatever the server said when the page was opened', () => {
  assert.equal(recordedSign('', null), '');
  assert.equal(recordedSign('', { recorded: false }), '');
  assert.equal(recordedSign('', { recorded: true }), 'Calls are recorded');
  assert.equal(recordedSign('', { recorded: true, recorded_pictures: true }), 'Calls are recorded with pictures');
  assert.equal(recordedSign('recorded_pictures', { recorded: false }), 'Being recorded with pictures');
  assert.equal(recordedSign('recorded', { recorded: true, recorded_pictures: true }), 'Being recorded');
});
