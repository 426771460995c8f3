/** Lists of the admin page: what is shown stays when the server does not answer, and nothing deleted comes back. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { NewsList } from '../../web/js/newslist.js';
import { Refusal } from '../../web/lib/server.js';

/** @param {...(() => Promise<string[]>)} answers */
function asked(...answers) {
  const clock = { now_ms: 0 };
  const list = new NewsList(() => /** @type {() => Promise<string[]>} */ (answers.shift())(), [], 10, () => clock.now_ms);
  return { list, clock };
}

const fails = (/** @type {Error} */ error) => () => Promise.reject(error);

test('it is asked for now and then', async () => {
  const { list, clock } = asked(async () => ['a'], async () => ['b']);
  assert.deepEqual([await list.news(), await list.news()], [['a'], null]);
  clock.now_ms = 10;
  assert.deepEqual(await list.news(), ['b']);
});

test('a question that fails changes nothing, a key that may not see it shows nothing', async () => {
  const { list, clock } = asked(fails(new Refusal('away', '')), fails(new TypeError()), fails(new Refusal('key', '', { status: 403 })));
  assert.equal(await list.news(), null);
  clock.now_ms = 10;
  assert.equal(await list.news(), null);
  clock.now_ms = 20;
  assert.deepEqual(await list.news(), []);
});

test('an answer to a question from before a change is no news, and the next question is asked at once', async () => {
  /** @type {(names: string[]) => void} */ let answer = () => {};
  const { list } = asked(() => new Promise((resolve) => { answer = resolve; }), async () => ['b']);
  const before = list.news();
  list.changed();
  const after = list.news();
  answer(['a', 'b']);
  assert.deepEqual([await before, await after], [null, ['b']]);
});
