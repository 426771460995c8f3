/** The settings with which a session begins anew. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Settings, merged } from '../../web/lib/settings.js';

const update = (/** @type {string} */ id, /** @type {any} */ session) => ({ type: 'session.update', event_id: id, session });

test('objects are changed member by member, all else is replaced', () => {
  const before = { a: { b: 1, c: [1, 2] }, d: { e: 1 } };
  assert.deepEqual(merged(before, { a: { c: [3] }, d: null }), { a: { b: 1, c: [3] }, d: null });
  assert.deepEqual(before, { a: { b: 1, c: [1, 2] }, d: { e: 1 } });
});

test('only what the server confirmed holds, each answer for the change that it belongs to', () => {
  const settings = new Settings({ instructions: 'one' });
  settings.ask(update('e1', { speed: 9 }));
  settings.ask(update('e2', { instructions: 'two' }));
  settings.apply({ type: 'error', error: { event_id: 'e1' } });
  assert.deepEqual(settings.now, { instructions: 'one' });
  settings.apply({ type: 'session.updated', session: {} });
  assert.deepEqual(settings.now, { instructions: 'two' });
  assert.deepEqual(settings.asked, []);
});

test('an error about something else answers no change', () => {
  const settings = new Settings({});
  settings.ask(update('e1', { speed: 1 }));
  settings.apply({ type: 'error', error: { event_id: 'other' } });
  settings.apply({ type: 'error', error: { event_id: null } });
  assert.deepEqual(settings.asked.map((event) => event.event_id), ['e1']);
});
