/**
 * What the user wants of the next call and of this one: prompt, voice, and how the engine is to answer. Kept in the
 * browser. No document here.
 *
 * Events: `change` {names}.
 */

import { memory } from './memory.js';

/** @type {Record<string, number|null>} tokens of an answer; null: the engine's own bound */
export const LENGTHS = { short: 96, balanced: null, long: 1024 };

/**
 * @typedef {Object} Wish undefined where the engine's own choice holds
 * @property {string} [instructions]
 * @property {string} [voice]
 * @property {string} [prompt_voice] that the model hears in its prompt
 * @property {boolean} [written] answers are not spoken
 * @property {boolean} [hd] pictures are read in more detail
 * @property {number} [max_output_tokens]
 * @property {number} [speed]
 * @property {number} [temperature]
 * @property {number} [top_p]
 * @property {number} [top_k]
 * @property {number} [repetition_penalty]
 * @property {number} [length_penalty]
 * @property {number} [listen_bias] positive: it listens rather than speaks
 * @property {number} [force_listen_count] units at the begin in which it only listens
 * @property {number} [seed]
 * @property {boolean} [greedy]
 * @property {boolean} [thinking]
 * @property {boolean} [context_policy] the call ends where the model's memory is full, which forgets nothing
 * @property {number} [vad_threshold] what is taken for a voice where turns are taken: 0 everything, 1 only what is loud
 * @property {number} [vad_silence_ms] that ends the user's turn there
 * @property {import('./presets.js').PresetMedia[]} [media] that a conversation begins with
 */

/** Of the user and the room rather than of what the model is to be: a preset leaves them. @type {(keyof Wish)[]} */
const PERSONAL = ['voice', 'prompt_voice', 'vad_threshold', 'vad_silence_ms'];

/**
 * Numbers that an engine may honour, with their bounds as the server sets them.
 * @type {{name: keyof Wish, min: number, max: number, step: number}[]}
 */
export const NUMBERS = [
  { name: 'temperature', min: 0, max: 2, step: 0.05 },
  { name: 'top_p', min: 0.05, max: 1, step: 0.05 },
  { name: 'top_k', min: 0, max: 1000, step: 1 },
  { name: 'repetition_penalty', min: 0.5, max: 2, step: 0.05 },
  { name: 'length_penalty', min: 0.5, max: 2, step: 0.05 },
  { name: 'listen_bias', min: -5, max: 5, step: 0.1 },
  { name: 'force_listen_count', min: 0, max: 20, step: 1 },
  { name: 'seed', min: 0, max: 2 ** 31 - 1, step: 1 },
  { name: 'speed', min: 0.5, max: 1.5, step: 0.05 },
];
/** Numbers of taking turns, where the engine honours `turn_detection`. @type {typeof NUMBERS} */
export const TURN_NUMBERS = [
  { name: 'vad_threshold', min: 0.05, max: 0.95, step: 0.05 },
  { name: 'vad_silence_ms', min: 100, max: 3000, step: 50 },
];
/** @type {(keyof Wish)[]} */
export const SWITCHES = ['thinking', 'greedy', 'context_policy'];

/** @type {(keyof Wish)[]} members of `session.engine` */
const ENGINE = [
  'temperature', 'top_p', 'top_k', 'repetition_penalty', 'length_penalty', 'listen_bias', 'force_listen_count', 'seed',
  'greedy', 'thinking', 'prompt_voice',
];

/**
 * @param {Wish} wish
 * @param {(name: string) => boolean} isHonoured by the engine
 * @param {string} [mode] in which the session is
 * @returns {Record<string, any>} a partial session object
 */
export function sessionOf(wish, isHonoured, mode = '') {
  /** @type {Record<string, any>} */ const session = {};
  if (wish.instructions !== undefined) session.instructions = wish.instructions;
  if (wish.written !== undefined) session.output_modalities = [wish.written ? 'text' : 'audio'];
  if (wish.hd !== undefined && isHonoured('max_image_slices')) session.video = { detail: wish.hd ? 'high' : 'auto' };
  if (wish.max_output_tokens !== undefined && isHonoured('max_output_tokens')) session.max_output_tokens = wish.max_output_tokens;
  if (wish.context_policy !== undefined && isHonoured('context_policy')) session.truncation = wish.context_policy ? 'disabled' : 'auto';
  /** @type {Record<string, any>} */ const output = {};
  if (wish.voice) output.voice = wish.voice;
  if (wish.speed !== undefined && isHonoured('speed')) output.speed = wish.speed;
  if (Object.keys(output).length) session.audio = { output };
  const turns = turnsOf(wish, isHonoured, mode);
  if (Object.keys(turns).length) session.audio = { ...session.audio, input: { turn_detection: turns } };
  const options = ENGINE.filter((name) => wish[name] !== undefined && wish[name] !== '' && isHonoured(name));
  if (options.length) session.engine = Object.fromEntries(options.map((name) => [name, wish[name]]));
  return session;
}

/**
 * @param {Wish} wish
 * @param {(name: string) => boolean} isHonoured
 * @param {string} mode
 * @returns {Record<string, any>} members of `turn_detection`, of which there are some only where turns are taken
 */
export function turnsOf({ vad_threshold, vad_silence_ms }, isHonoured, mode) {
  if (mode !== 'half_duplex' || !isHonoured('turn_detection')) return {};
  return {
    ...(vad_threshold !== undefined && { threshold: vad_threshold }),
    ...(vad_silence_ms !== undefined && { silence_duration_ms: vad_silence_ms }),
  };
}

/**
 * @param {Wish} wish
 * @param {readonly string[]} names of members that changed
 * @param {(name: string) => boolean} isHonoured
 * @param {string} [mode] in which the session is
 * @returns {Record<string, any>} a partial session object that brings a session in force to the wish
 */
export function changesOf(wish, names, isHonoured, mode = '') {
  /** @type {Record<string, any>} */ const changed = {};
  for (const name of names) changed[name] = /** @type {any} */ (wish)[name] ?? null;
  const session = sessionOf(changed, isHonoured, mode);
  // null gives a member of the session back to its default.
  if (changed.instructions === null) session.instructions = null;
  if (changed.written === null) session.output_modalities = null;
  if (changed.hd === null && session.video) session.video = { detail: null };
  if (changed.voice === null) session.audio = { ...session.audio, output: { ...session.audio?.output, voice: null } };
  return session;
}

/** @param {Record<string, any>} session a partial session object, as a preset holds it @returns {Wish} */
export function wishOf(session) {
  const { instructions, output_modalities, video, max_output_tokens, truncation, audio, engine = {} } = session;
  /** @type {Record<string, any>} */ const wish = { instructions };
  if (output_modalities) wish.written = output_modalities[0] === 'text';
  if (video?.detail) wish.hd = video.detail === 'high';
  if (typeof max_output_tokens === 'number') wish.max_output_tokens = max_output_tokens;
  if (truncation === 'disabled') wish.context_policy = true;
  if (audio?.output?.voice && audio.output.voice !== 'default') wish.voice = audio.output.voice;
  if (audio?.output?.speed !== undefined) wish.speed = audio.output.speed;
  for (const name of ENGINE) if (engine[name] !== undefined) wish[name] = engine[name];
  return wish;
}

/** @param {number|undefined} tokens @returns {string} the word for it, '' where it is a number of the user's own */
export function lengthWordOf(tokens) {
  return Object.keys(LENGTHS).find((word) => (LENGTHS[word] ?? undefined) === tokens) ?? '';
}

export class Wishes extends EventTarget {
  /** @type {Wish} */ #wish = read('wish', {});

  /** @returns {Wish} */
  get now() {
    return { ...this.#wish };
  }

  /** @param {Wish} changes undefined members go back to the engine's choice */
  change(changes) {
    this.#wish = withoutUndefined({ ...this.#wish, ...changes });
    this.#keep(Object.keys(changes));
  }

  /** @param {Wish} wish instead of all that was wished for */
  replace(wish) {
    const names = [...new Set([...Object.keys(this.#wish), ...Object.keys(wish)])];
    this.#wish = withoutUndefined(wish);
    this.#keep(names);
  }

  /** @param {string[]} names */
  #keep(names) {
    memory.write('wish', JSON.stringify(this.#wish));
    this.dispatchEvent(new CustomEvent('change', { detail: { names } }));
  }
}

/** @param {Wish} wish @returns {Wish} what a preset leaves of it */
export function personalOf(wish) {
  return Object.fromEntries(PERSONAL.map((name) => [name, wish[name]]));
}

/** @param {Wish} wish @returns {Wish} */
function withoutUndefined(wish) {
  return Object.fromEntries(Object.entries(wish).filter(([, value]) => value !== undefined));
}

/**
 * @template T
 * @param {string} name @param {T} otherwise
 * @returns {T} what was kept under this name
 */
export function read(name, otherwise) {
  try {
    const found = JSON.parse(memory.read(name) || 'null');
    return found && Array.isArray(found) === Array.isArray(otherwise) ? found : otherwise;
  } catch {
    return otherwise;
  }
}
