/** What the server answers about a call that it may not have any more. */

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';

import { endingProblem } from '../../web/js/problems.js';
import { Server } from '../../web/lib/server.js';

const server = new Server({ url: 'https://calls.example/omni/', key: 'k' });

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
  assert.equal(await server.endingOf('rtc_1'), null);
});

test('a call whose media worker died ends with the reason and its words', async () => {
  answers(410, JSON.stringify({ error: { code: 'worker_gone', message: 'The server lost this call; call again.' } }));
  const gone = await server.endingOf('rtc_1');
  assert.deepEqual(gone, { reason: 'worker_gone', message: 'The server lost this call; call again.' });
  const problem = endingProblem(/** @type {any} */ ({ kind: 'server', ...gone }), true);
  assert.equal(problem?.kind, 'ended_worker_gone');
  assert.match(problem?.text ?? '', /call again/);
});

test('a call that nobody knows is over without a reason', async () => {
  answers(404, '{}');
  assert.deepEqual(await server.endingOf('rtc_1'), { reason: '', message: '' });
});

test('a server that cannot be asked or is in trouble ends no call', async () => {
  for (const status of [429, 500, 502, 503]) {
    answers(status, '');
    assert.equal(await server.endingOf('rtc_1'), null, String(status));
  }
  answers(410, '<html>');
  assert.equal(await server.endingOf('rtc_1'), null);
  globalThis.fetch = async () => {
    throw new TypeError('no network');
  };
  assert.equal(await server.endingOf('rtc_1'), undefined);
});

test('a call is placed below the prefix of a proxy, and known by its id whatever place the server names', async () => {
  /** @type {any[]} */ const asked = [];
  globalThis.fetch = async (url, init) => {
    asked.push([url, /** @type {any} */ (init).headers]);
    return new Response('v=0', { status: 201, headers: { Location: 'http://10.0.0.1:8006/v1/realtime/calls/rtc_7', 'Omnicall-Resume': 'secret' } });
  };
  assert.deepEqual(await server.offer('v=0', {}), { sdp: 'v=0', id: 'rtc_7', token: 'secret' });
  assert.deepEqual(asked, [['https://calls.example/omni/v1/realtime/calls', { Authorization: 'Bearer k', 'Omnicall-Resume': 'new' }]]);
});

test('a refusal has a kind, the words of the server and the wait that it asks for', async () => {
  globalThis.fetch = async () =>
    new Response('{"error": {"message": "All lines are busy.", "code": "busy"}}', { status: 503, headers: { 'Retry-After': '7' } });
  await assert.rejects(server.offer('v=0', {}), (/** @type {any} */ error) => {
    assert.deepEqual([error.kind, error.message, error.code, error.retryAfter_s], ['busy', 'All lines are busy.', 'busy', 7]);
    return true;
  });
});
