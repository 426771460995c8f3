/** What the pages say about an engine that is still starting. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { hintOf, wordsOf } from '../../web/js/phase.js';
import { aboutText, startText, stepOf } from '../../web/js/engine.js';

const loading = { doing: 'loading the voice', percent: null, step_s: 75, since_s: 90 };

test('a step says what is done, how far it is, and since when', () => {
  assert.equal(stepOf(loading), 'loading the voice, for 01:15');
  assert.equal(stepOf({ ...loading, percent: 0, step_s: 0.4 }), 'loading the voice, 0 %');
  assert.equal(stepOf({ doing: 'downloading a/b', percent: 42, step_s: 5, since_s: 5 }), 'downloading a/b, 42 %, for 00:05');
});

test('who has not called learns that a call would wait', () => {
  const now = /** @type {any} */ ({ starting: loading });
  assert.equal(wordsOf('idle', now, false, true), 'Not ready yet');
  assert.equal(wordsOf('idle', now, false, false), 'Ready to call');
  assert.equal(hintOf('idle', now), 'A call waits in line until the engine is ready.');
  assert.equal(startText(loading), 'The engine is starting: loading the voice, for 01:15.');
});

test('who waits in a call is told of the start instead of a time', () => {
  const now = (/** @type {any} */ starting) => /** @type {any} */ ({ wait_s: 20, starting });
  assert.equal(hintOf('queued', now(loading)), 'The engine is starting: loading the voice, for 01:15. The call starts by itself.');
  assert.equal(hintOf('queued', now(null)), 'About 20 s left. The call starts by itself.');
});

test('who meets the small engine learns what more could be installed', () => {
  const info = (/** @type {any} */ engine) => /** @type {any} */ ({ engine: { kind: 'builtin', description: 'A demo', ...engine } });
  assert.match(aboutText(info({ speech: 'basic' })), /robotic voice\..*omnicall\[voice\]/);
  assert.match(aboutText(info({ speech: 'neural' })), /small neural models hear and speak/);
  assert.doesNotMatch(aboutText(info({ speech: 'neural' })), /install/);
  assert.equal(aboutText(info({ kind: 'other', description: 'Another.' })), 'Another.');
});
