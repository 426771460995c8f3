/** What both sides said, built from the server's events. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Captions } from '../../web/lib/captions.js';

/** @param {...any} events @returns {Captions} */
function after(...events) {
  const captions = new Captions();
  for (const event of events) captions.apply(event);
  return captions;
}

const said = (/** @type {string} */ delta, item = 'a1', response = 'r1') =>
  ({ type: 'response.output_audio_transcript.delta', item_id: item, response_id: response, delta });

test('an answer grows with its words and is done once its sound was played', () => {
  const captions = after(said(' It is'), said(' noon.'));
  assert.deepEqual(captions.list().map((row) => [row.text, row.status]), [['It is noon.', 'growing']]);
  captions.apply({ type: 'output_audio_buffer.stopped', response_id: 'r1' });
  assert.equal(captions.list()[0].status, 'done');
});

test('an interrupted answer keeps what was heard and takes no late words', () => {
  const captions = after(said('One two'), { type: 'conversation.item.truncated', item_id: 'a1', audio_end_ms: 640 }, said(' three'));
  const [row] = captions.list();
  assert.deepEqual([row.text, row.status, row.heard_ms], ['One two', 'cut', 640]);
});

test('an answer that was being played when the call ended was not heard in full', () => {
  const done = { type: 'response.output_audio_transcript.done', item_id: 'a1', response_id: 'r1', transcript: 'One two three' };
  const playing = after({ type: 'output_audio_buffer.started', response_id: 'r1' }, said('One two three'), done);
  playing.finish();
  assert.equal(playing.list()[0].status, 'cut');
  const played = after({ type: 'output_audio_buffer.started', response_id: 'r1' }, said('One two three'), done,
    { type: 'output_audio_buffer.stopped', response_id: 'r1' });
  played.finish();
  assert.equal(played.list()[0].status, 'done');
});

test('an answer cut before its first word never comes back', () => {
  const captions = after(
    { type: 'response.output_item.added', item: { type: 'message', id: 'a1' }, response_id: 'r1' },
    { type: 'output_audio_buffer.cleared', response_id: 'r1' },
    said('too late'),
  );
  assert.deepEqual(captions.list(), []);
});

test('a typed message is shown once, under the id that the server gives it', () => {
  const captions = new Captions();
  captions.typed('mine', 'hello');
  captions.apply({
    type: 'conversation.item.added',
    item: { type: 'message', id: 'theirs', role: 'user', content: [{ type: 'input_text', text: 'hello' }] },
  });
  assert.deepEqual(captions.list().map((row) => [row.id, row.text, row.echoed]), [['theirs', 'hello', true]]);
});

test('an utterance that is not written down is no failure', () => {
  const failed = (/** @type {string} */ code) =>
    ({ type: 'conversation.item.input_audio_transcription.failed', item_id: 'u1', error: { code } });
  assert.equal(after(failed('not_transcribed')).list()[0].status, 'unwritten');
  assert.equal(after(failed('timeout')).list()[0].status, 'failed');
});

test('the list is bounded and drops its oldest rows', () => {
  const captions = new Captions();
  for (let n = 0; n < 250; n += 1) captions.note(`${n}`);
  const rows = captions.list();
  assert.deepEqual([rows.length, rows[0].text, rows[199].text], [200, '50', '249']);
});

test('events with missing fields change nothing and throw nothing', () => {
  for (const type of ['conversation.item.added', 'response.done', 'response.output_text.done', 'output_audio_buffer.cleared']) {
    assert.deepEqual(after({ type }).list(), [], type);
  }
});

test('an earlier conversation is shown again, and what was growing in it is over', () => {
  const before = after(said('One two'));
  before.typed('u1', 'look', [{ name: 'cat.png', kind: 'image' }]);
  before.note('a note');
  const captions = new Captions();
  captions.note('this one goes');
  captions.restore(before.list());
  captions.note('this one is new');
  const rows = captions.list();
  assert.deepEqual(rows.map((row) => [row.text, row.status]), [
    ['One two', 'cut'], ['look', 'done'], ['a note', 'done'], ['this one is new', 'done'],
  ]);
  assert.equal(new Set(rows.map((row) => row.id)).size, 4);
});

test('what is taken back goes with all that came after it, and late events do not bring it back', () => {
  const captions = new Captions();
  captions.typed('u1', 'one');
  captions.typed('u2', 'two');
  captions.apply(said('Answer'));
  assert.deepEqual(captions.cutBackTo('u2').map((row) => row.id), ['u2', 'a1']);
  captions.apply(said(' late'));
  assert.deepEqual(captions.list().map((row) => row.id), ['u1']);
  assert.deepEqual(captions.cutBackTo('nobody'), []);
});
