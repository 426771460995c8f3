/** Conversations in IndexedDB, and what keeps them as they grow. */

import 'fake-indexeddb/auto';

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { IDBFactory } from 'fake-indexeddb';

import { History } from '../../web/js/history.js';
import { Keeper } from '../../web/js/keeper.js';
import { Captions } from '../../web/lib/captions.js';

/** @param {string} id @param {number} changed_ms @returns {any} */
const chat = (id, changed_ms) => ({ id, begun_ms: 0, changed_ms, mode: '', rows: [{ id: 'u', role: 'user', text: id, status: 'done', typed: true }] });

const fresh = () => new History(new IDBFactory());

/** A tab's storage. */
function tab() {
  const held = new Map();
  return {
    getItem: (/** @type {string} */ key) => held.get(key) ?? null,
    setItem: (/** @type {string} */ key, /** @type {string} */ value) => void held.set(key, value),
    removeItem: (/** @type {string} */ key) => void held.delete(key),
  };
}

test('conversations are listed by the newest, read, written over and deleted with what belongs to them', async () => {
  const history = fresh();
  for (const [id, at] of /** @type {[string, number][]} */ ([['a', 1], ['b', 3], ['c', 2]])) await history.keep(chat(id, at));
  assert.deepEqual((await history.list()).map(({ id }) => id), ['b', 'c', 'a']);
  await history.keep({ ...chat('a', 9), mode: 'turn_based' });
  assert.equal((await history.list())[0].mode, 'turn_based');
  await history.keepMedia({ chat: 'a', row: 'u', index: 0, blob: new Blob(['x']) });
  await history.keepMedia({ chat: 'ab', row: 'u', index: 0, blob: new Blob(['y']) });
  assert.equal((await history.mediaOf('a')).length, 1);
  await history.delete('a');
  assert.equal(await history.get('a'), undefined);
  assert.deepEqual([(await history.mediaOf('a')).length, (await history.mediaOf('ab')).length], [0, 1]);
  await history.clear();
  assert.deepEqual([await history.list(), await history.mediaOf('ab')], [[], []]);
});

test('there is room for 300, and the oldest goes with its files', async () => {
  const history = fresh();
  await history.keep(chat('oldest', 1));
  await history.keepMedia({ chat: 'oldest', row: 'u', index: 0, blob: new Blob(['x']) });
  for (let n = 0; n < 300; n += 1) await history.keep(chat(`c${n}`, 2 + n));
  const ids = (await history.list()).map(({ id }) => id);
  assert.deepEqual([ids.length, ids.includes('oldest'), (await history.mediaOf('oldest')).length], [300, false, 0]);
});

test('a browser without storage is told of, and does not end a call', async () => {
  const none = new History(/** @type {any} */ (null));
  await assert.rejects(none.list(), /no storage/);
  const captions = new Captions();
  const keeper = new Keeper(captions, none, tab(), true);
  captions.typed('u1', 'hello');
  await keeper.write();
});

test('what is said is kept under one id until another conversation begins', async () => {
  const history = fresh();
  const captions = new Captions();
  const keeper = new Keeper(captions, history, tab(), true);
  keeper.begin('half_duplex');
  captions.note('only a note');
  await keeper.write();
  assert.deepEqual(await history.list(), []);
  captions.typed('u1', 'hello');
  keeper.addMedia('u1', 0, new Blob(['x']));
  keeper.vote('u1', { is: 'up' });
  await keeper.write();
  captions.typed('u2', 'again');
  const before = keeper.id;
  await keeper.renew();
  const [kept] = await history.list();
  assert.deepEqual([kept.id, kept.mode, kept.rows.length, kept.votes], [before, 'half_duplex', 3, { u1: { is: 'up' } }]);
  assert.equal((await history.mediaOf(before)).length, 1);
  assert.deepEqual([captions.list(), keeper.id === before], [[], false]);
});

test('a reopened conversation goes on under its own id', async () => {
  const history = fresh();
  await history.keep(chat('old', 1));
  const captions = new Captions();
  const keeper = new Keeper(captions, history, tab(), true);
  captions.typed('u1', 'something else');
  await keeper.reopen(/** @type {any} */ (await history.get('old')));
  captions.typed('u2', 'and on');
  await keeper.write();
  assert.equal((await history.list()).length, 2);
  assert.deepEqual((await history.get('old'))?.rows.map(({ text }) => text), ['old', 'and on']);
});

test('switched off nothing is kept but what a reload needs', async () => {
  const history = fresh();
  const captions = new Captions();
  const storage = tab();
  const keeper = new Keeper(captions, history, storage, false);
  captions.typed('u1', 'secret');
  await keeper.write();
  assert.deepEqual(await history.list(), []);
  keeper.leave({ mode: 'turn_based', listenOnly: true });
  const again = new Keeper(new Captions(), history, storage, false);
  const found = again.comeBack();
  assert.deepEqual([found?.chat.rows[0].text, found?.call], ['secret', { mode: 'turn_based', listenOnly: true }]);
  assert.equal(again.comeBack(), null);
});

test('a tab that was left long ago shows its words and does not call', () => {
  const storage = tab();
  const captions = new Captions();
  captions.typed('u1', 'hello');
  new Keeper(captions, fresh(), storage, false).leave({ mode: 'full_duplex', listenOnly: false });
  const found = new Keeper(new Captions(), fresh(), storage, false).comeBack(Date.now() + 600_000);
  assert.deepEqual([found?.chat.rows.length, found?.call], [1, null]);
  storage.setItem('omnicall.chat', '{"chat": 1}');
  assert.equal(new Keeper(new Captions(), fresh(), storage, false).comeBack(), null);
});

test('files stand beside the words, and a deleted conversation is gone from the page', async () => {
  const history = fresh();
  const captions = new Captions();
  const keeper = new Keeper(captions, history, tab(), true);
  captions.typed('u1', 'look', [{ name: 'cat.png', kind: 'image', file: new Blob(['x']) }]);
  await keeper.write();
  const [{ id, rows }] = await history.list();
  assert.deepEqual(rows[0].media, [{ name: 'cat.png', kind: 'image' }]);
  await history.delete(id);
  await keeper.forget();
  await keeper.write();
  assert.deepEqual([captions.list(), await history.list(), keeper.id === id], [[], [], false]);
});
