/** What the user wants of a call: as settings of a session, from presets, kept, and in one language. */

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { clashOf, languageOf } from '../../web/js/languages.js';
import { OwnPresets, inOrder } from '../../web/js/presets.js';
import { LENGTHS, Wishes, changesOf, lengthWordOf, personalOf, sessionOf, turnsOf, wishOf } from '../../web/js/wishes.js';

beforeEach(() => {
  const held = new Map();
  Object.assign(globalThis, {
    localStorage: { getItem: (/** @type {string} */ key) => held.get(key) ?? null, setItem: (/** @type {string} */ key, /** @type {string} */ value) => held.set(key, value) },
  });
});

const all = () => true;

test('what is wished for is a session object with what the engine honours', () => {
  const wish = { instructions: 'Be brief.', voice: 'v1', written: true, hd: true, max_output_tokens: 96, temperature: 0.5, thinking: true, prompt_voice: 'v2', speed: 1.2 };
  assert.deepEqual(sessionOf(wish, all), {
    instructions: 'Be brief.',
    output_modalities: ['text'],
    video: { detail: 'high' },
    max_output_tokens: 96,
    audio: { output: { voice: 'v1', speed: 1.2 } },
    engine: { temperature: 0.5, thinking: true, prompt_voice: 'v2' },
  });
  assert.deepEqual(sessionOf(wish, (name) => name === 'temperature'), {
    instructions: 'Be brief.', output_modalities: ['text'], audio: { output: { voice: 'v1' } }, engine: { temperature: 0.5 },
  });
  assert.deepEqual(sessionOf({}, all), {});
});

test('a preset’s session and the wish for it are the same thing', () => {
  const session = {
    instructions: 'Look.', output_modalities: ['audio'], video: { detail: 'auto' }, max_output_tokens: 1024,
    audio: { output: { voice: 'v1' } }, engine: { top_k: 20, listen_bias: 1 },
  };
  assert.deepEqual(sessionOf(wishOf(session), all), session);
  assert.deepEqual(wishOf({ instructions: '', audio: { output: { voice: 'default' } }, max_output_tokens: 'inf' }), { instructions: '' });
});

test('a change in a call is told alone, and what is wished for no longer goes back to its default', () => {
  const wish = { voice: 'v1', temperature: 0.5, hd: true };
  assert.deepEqual(changesOf(wish, ['temperature'], all), { engine: { temperature: 0.5 } });
  assert.deepEqual(changesOf({}, ['voice', 'temperature', 'hd', 'written', 'instructions', 'max_output_tokens'], all), {
    instructions: null, output_modalities: null, video: { detail: null }, max_output_tokens: null,
    audio: { output: { voice: null } }, engine: { temperature: null },
  });
  assert.deepEqual(changesOf({}, ['temperature'], () => false), {});
});

test('a call ends where the memory is full only if that is wished for', () => {
  assert.deepEqual(sessionOf({ context_policy: true }, all), { truncation: 'disabled' });
  assert.deepEqual(sessionOf({ context_policy: true }, () => false), {});
  assert.deepEqual(changesOf({}, ['context_policy'], all), { truncation: 'auto' });
  assert.deepEqual(wishOf({ truncation: 'disabled' }), { instructions: undefined, context_policy: true });
});

test('how turns are found is told where turns are taken', () => {
  const wish = { vad_threshold: 0.8, vad_silence_ms: 900, voice: 'v1' };
  const turn_detection = { threshold: 0.8, silence_duration_ms: 900 };
  assert.deepEqual(sessionOf(wish, all, 'half_duplex'), { audio: { output: { voice: 'v1' }, input: { turn_detection } } });
  assert.deepEqual(sessionOf(wish, all, 'full_duplex'), { audio: { output: { voice: 'v1' } } });
  assert.deepEqual(turnsOf(wish, () => false, 'half_duplex'), {});
  assert.deepEqual(changesOf({ vad_threshold: 0.3 }, ['vad_threshold', 'vad_silence_ms', 'voice'], all, 'half_duplex'), {
    audio: { output: { voice: null }, input: { turn_detection: { threshold: 0.3, silence_duration_ms: null } } },
  });
  assert.deepEqual(personalOf({ ...wish, hd: true }), { ...wish, prompt_voice: undefined });
});

test('lengths have words', () => {
  assert.deepEqual([lengthWordOf(96), lengthWordOf(undefined), lengthWordOf(1024), lengthWordOf(77)], ['short', 'balanced', 'long', '']);
  assert.equal(LENGTHS.balanced, null);
});

test('wishes are kept, and undefined ones are the engine’s again', () => {
  const wishes = new Wishes();
  /** @type {string[][]} */ const told = [];
  wishes.addEventListener('change', (event) => told.push(/** @type {CustomEvent} */ (event).detail.names));
  wishes.change({ voice: 'v1', temperature: 0.3 });
  wishes.change({ temperature: undefined });
  assert.deepEqual(new Wishes().now, { voice: 'v1' });
  wishes.replace({ instructions: 'Be brief.' });
  assert.deepEqual([wishes.now, told], [{ instructions: 'Be brief.' }, [['voice', 'temperature'], ['temperature'], ['voice', 'instructions']]]);
});

test('what was kept and is broken is as if it had not been', () => {
  localStorage.setItem('omnicall.wish', '[1');
  localStorage.setItem('omnicall.presets', '{}');
  assert.deepEqual([new Wishes().now, new OwnPresets().list()], [{}, []]);
});

test('own presets are saved by their name, replaced and deleted', () => {
  const own = new OwnPresets();
  const preset = { name: ' Tutor ', mode: 'half_duplex', language: 'en', session: { instructions: 'Teach.' } };
  const saved = own.save(preset);
  own.save({ ...preset, session: { instructions: 'Teach well.' } });
  assert.deepEqual(new OwnPresets().list().map(({ name, session }) => [name, session.instructions]), [['Tutor', 'Teach well.']]);
  assert.equal(own.save({ ...preset, name: '  ' }), null);
  own.delete(saved?.id ?? '');
  assert.deepEqual(own.list(), []);
  for (let n = 0; n < 50; n += 1) assert.ok(own.save({ ...preset, name: `p${n}` }));
  assert.equal(own.save({ ...preset, name: 'one more' }), null);
});

test('presets for what is chosen come first', () => {
  const preset = (/** @type {string} */ id, /** @type {string} */ mode, /** @type {string} */ language, camera = false) =>
    ({ id, name: id, mode, language, camera, source: 'shipped', session: {} });
  const list = [preset('a', 'turn_based', 'en'), preset('b', 'full_duplex', 'zh-CN'), preset('c', 'full_duplex', 'en'), preset('d', 'full_duplex', 'en', true)];
  const now = { mode: 'full_duplex', language: 'en', canSee: false };
  assert.deepEqual(inOrder(list, now).map(({ id }) => id), ['c', 'b', 'a']);
  assert.deepEqual(inOrder(list, { ...now, canSee: true, language: 'zh' }).map(({ id }) => id), ['b', 'c', 'd', 'a']);
});

test('the language of a prompt is told by its letters', () => {
  assert.equal(languageOf('You are a friendly guide. Answer in short sentences.'), 'en');
  assert.equal(languageOf('你是一位友好的助手，请用中文回答 Kubernetes 的问题。'), 'zh');
  assert.equal(languageOf('あなたは親切なガイドです'), 'ja');
  assert.equal(languageOf('당신은 친절한 안내자입니다'), 'ko');
  assert.deepEqual([languageOf(''), languageOf('42!'), languageOf('Sei kurz')], ['', '', '']);
});

test('a call in two languages is noticed', () => {
  assert.equal(clashOf({ prompt: 'en', voice: 'en-US', page: 'en' }), null);
  assert.deepEqual(clashOf({ prompt: '', voice: 'zh', page: 'en' }), { what: 'voice_page', prompt: '', other: 'zh' });
  assert.equal(clashOf({ prompt: '', voice: '', page: 'en' }), null);
  assert.deepEqual(clashOf({ prompt: 'zh', voice: 'en', page: 'zh' }), { what: 'prompt_voice', prompt: 'zh', other: 'en' });
  assert.deepEqual(clashOf({ prompt: 'zh', voice: '', page: 'en' }), { what: 'prompt_page', prompt: 'zh', other: 'en' });
});
