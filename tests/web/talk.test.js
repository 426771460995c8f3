/** Whose turn it is. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Talk } from '../../web/js/talk.js';

/** @param {...any} events @returns {Talk} */
function after(...events) {
  const talk = new Talk();
  for (const event of [{ type: 'session.created' }, ...events]) talk.apply(event, 0);
  return talk;
}

test('nobody waits for an answer to what was said before another mode was chosen', () => {
  const talk = after({ type: 'input_audio_buffer.speech_started' }, { type: 'input_audio_buffer.speech_stopped' });
  assert.equal(talk.turn, 'thinking');
  talk.switched();
  assert.deepEqual([talk.turn, talk.awaitsSound], ['listening', false]);
  talk.stop();
});

test('an answer that is being made goes on over a switch', () => {
  const talk = after({ type: 'response.created' });
  talk.switched();
  assert.equal(talk.turn, 'thinking');
  talk.apply({ type: 'response.done' }, 0);
  assert.equal(talk.turn, 'listening');
});

test('speech that was heard when the mode changed is not waited for', () => {
  const talk = after({ type: 'input_audio_buffer.speech_started' });
  talk.switched();
  assert.equal(talk.turn, 'listening');
});
