/** What the server answers about a call that it may not have any more. */

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';

import { endingProblem } from '../../web/js/problems.js';
import { callEnding } from '../../web/js/server.js';

const realFetch = globalThis.fetch;
afterEach(() => {
  globalThis.fetch = realFetch;
});

/** @param {number} status @param {string} body */
function answers(status, body) {
  globalThis.fetch = async () => new Response(body, { status });
}

test('a call that the server has is not over', async () => {
  answers(200, '{"id": "rtc_1"}');
  assert.equal(await callEnding('/v1/realtime/calls/rtc_1'), null);
});

test('a call whose media worker died ends with the reason and its words', async () => {
  answers(410, JSON.stringify({ error: { code: 'worker_gone', message: 'The server lost this call; call again.' } }));
  const gone = await callEnding('/v1/realtime/calls/rtc_1');
  assert.deepEqual(gone, { reason: 'worker_gone', message: 'The server lost this call; call again.' });
  const problem = endingProblem(/** @type {any} */ ({ kind: 'server', ...gone }), true);
  assert.equal(problem?.kind, 'ended_worker_gone');
  assert.match(problem?.text ?? '', /call again/);
});

test('a call that nobody knows is over without a reason', async () => {
  answers(404, '{}');
  assert.deepEqual(await callEnding('/v1/realtime/calls/rtc_1'), { reason: '', message: '' });
});

test('a server that cannot be asked or is in trouble ends no call', async () => {
  for (const status of [429, 500, 502, 503]) {
    answers(status, '');
    assert.equal(await callEnding('/v1/realtime/calls/rtc_1'), null, String(status));
  }
  answers(410, '<html>');
  assert.equal(await callEnding('/v1/realtime/calls/rtc_1'), null);
  globalThis.fetch = async () => {
    throw new TypeError('no network');
  };
  assert.equal(await callEnding('/v1/realtime/calls/rtc_1'), null);
});
