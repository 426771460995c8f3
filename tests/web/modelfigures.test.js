/** Figures of the model, as the server's events and the ear tell them. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ModelFigures } from '../../web/js/modelfigures.js';

test('a unit tells its time, the context and how much speech waits', () => {
  const figures = new ModelFigures();
  figures.apply({ type: 'metrics', metrics: { unit: 3, unit_ms: 240.5, kv_tokens: 4096, context_tokens: 8192, ahead_ms: 900 } }, 0);
  assert.deepEqual(figures.contextShare, 0.5);
  const { unit_ms, ahead_ms, context_tokens, context_limit } = figures.now;
  assert.deepEqual([unit_ms, ahead_ms, context_tokens, context_limit], [240.5, 900, 4096, 8192]);
  figures.apply({ type: 'metrics', metrics: { kv_tokens: 'many' } }, 0);
  figures.apply({ type: 'metrics' }, 0);
  assert.equal(figures.now.context_tokens, 4096);
});

test('an engine that counts no context has no meter', () => {
  const figures = new ModelFigures();
  figures.apply({ type: 'metrics', metrics: { unit: 1, kv_tokens: 0, respond_ms: 12 } }, 0);
  assert.deepEqual([figures.contextShare, figures.now.context_tokens, figures.now.unit_ms], [null, null, 12]);
});

test('an answer tells its first sound and its tokens', () => {
  const figures = new ModelFigures();
  figures.apply({ type: 'response.created', response: {} }, 1000);
  figures.apply({ type: 'output_audio_buffer.started' }, 1180);
  figures.apply({ type: 'response.done', response: { usage: { input_tokens: 70, output_tokens: 12 } } }, 2000);
  assert.deepEqual([figures.now.first_sound_ms, figures.now.tokens_in, figures.now.tokens_out], [180, 70, 12]);
});

test('an interruption is timed from the first sound of the voice to silence', () => {
  const figures = new ModelFigures();
  figures.hear(false, true, 0);
  figures.hear(true, true, 1000);
  figures.hear(false, true, 1200);
  figures.hear(true, true, 1300);
  figures.apply({ type: 'output_audio_buffer.cleared' }, 1400);
  figures.hear(true, true, 1450);
  figures.hear(true, false, 1500);
  figures.hear(false, false, 9000);
  assert.equal(figures.now.cut_ms, 500);
});

test('an answer that was stopped by hand was not interrupted by a voice', () => {
  const figures = new ModelFigures();
  figures.hear(true, false, 100);
  figures.apply({ type: 'output_audio_buffer.cleared' }, 20_000);
  figures.hear(false, false, 20_050);
  assert.equal(figures.now.cut_ms, null);
  figures.reset();
  assert.equal(figures.now.cut_ms, null);
});
