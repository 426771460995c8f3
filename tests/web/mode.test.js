/** How the two sides take turns. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CHOICES, Mode, sessionMode } from '../../web/js/mode.js';
import { MODES, modeOf, settingsOf } from '../../web/lib/settings.js';

test('each mode is found again in the settings that stand for it', () => {
  for (const mode of MODES) assert.equal(modeOf(settingsOf(mode)), mode);
  assert.equal(modeOf({}), null);
});

test('a mode that the server refuses goes back to the one before', () => {
  const mode = new Mode();
  mode.choose('full_duplex');
  mode.begin('full_duplex');
  mode.choose('turn_based', 'event-1');
  assert.deepEqual([mode.asked, mode.chosen], ['turn_based', 'turn_based']);
  mode.apply({ type: 'error', error: { event_id: 'event-1' } });
  assert.deepEqual([mode.asked, mode.chosen, mode.now], [null, 'full_duplex', 'full_duplex']);
});

test('a mode that the server confirms holds in the call', () => {
  const mode = new Mode();
  mode.begin('full_duplex');
  mode.choose('half_duplex', 'event-2');
  mode.apply({ type: 'session.updated', session: settingsOf('half_duplex') });
  assert.deepEqual([mode.asked, mode.now], [null, 'half_duplex']);
});

test('a server that names no mode we know supports all of them', () => {
  const mode = new Mode();
  mode.support(['half_duplex']);
  assert.deepEqual([mode.supported, mode.chosen], [['half_duplex'], 'half_duplex']);
  mode.support(['telepathy']);
  assert.deepEqual(mode.supported, CHOICES);
});

test('a chat takes turns without a microphone, and is no chat any more once there is one', () => {
  assert.equal(sessionMode('chat'), 'turn_based');
  const mode = new Mode();
  mode.begin('chat');
  mode.apply({ type: 'session.created', session: settingsOf('turn_based') });
  assert.deepEqual([mode.now, mode.isTurnBased], ['chat', true]);
  mode.listenTo(true);
  assert.equal(mode.now, 'turn_based');
  mode.end();
  mode.support(['full_duplex']);
  assert.deepEqual(mode.supported, ['full_duplex']);
});
