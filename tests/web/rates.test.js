/** Figures from successive answers of /api/stats. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Rates, list, unknownFields } from '../../web/js/rates.js';

/** @param {number} time @param {Record<string, number>} inbound @param {number} [cpu_s] */
function answer(time, inbound, cpu_s = 0) {
  return {
    time,
    processes: [{ name: 'worker-0', pid: 7, cpu_s }],
    calls: [{ call_id: 'c', stats: { i: { type: 'inbound-rtp', kind: 'audio', ...inbound } } }],
  };
}

test('loss is what was lost since the oldest answer in the window, not since the call began', () => {
  const rates = new Rates();
  rates.next(answer(0, { packetsLost: 100, packetsReceived: 100 }));
  const now = answer(1, { packetsLost: 101, packetsReceived: 199 });
  rates.next(now);
  assert.equal(rates.call(now.calls[0]).in_loss_pct, 1);
});

test('what nobody reported is null, never zero', () => {
  const rates = new Rates();
  const now = answer(0, {});
  rates.next(now);
  const figures = rates.call(now.calls[0]);
  assert.deepEqual(Object.values(figures).filter((value) => value !== null), []);
});

test('processor time counts for the same process only', () => {
  const rates = new Rates();
  rates.next(answer(0, {}, 1));
  rates.next(answer(2, {}, 2));
  assert.equal(rates.cpuPct({ name: 'worker-0', pid: 7, cpu_s: 2 }), 50);
  assert.equal(rates.cpuPct({ name: 'worker-0', pid: 8, cpu_s: 2 }), null);
});

test('reports come as a list or as an object by id', () => {
  assert.deepEqual(list({ a: { id: 1 }, b: null, c: 'text' }), [{ id: 1 }]);
  assert.deepEqual(list(undefined), []);
});

test('fields that a page does not know are shown in words', () => {
  const shown = unknownFields({ id: 1, is_open: true, late_share: 0.126, stages: { encode_ms: 3 }, rows: [1] }, ['id']);
  assert.deepEqual(shown, [['is open', 'yes'], ['late share', '0.13'], ['stages', 'encode ms 3']]);
});
