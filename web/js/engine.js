/** The engine behind the server: which it is, and what the pages say of it while it starts. */

import { clockText } from './dom.js';
import { numberText, t, tOr } from './i18n.js';

/** @typedef {import('../lib/server.js').Info} Info */
/** @typedef {import('../lib/server.js').Starting} Starting */

/** How the server's words for a step begin, and ours; what follows are names and numbers. */
const STEPS = [
  ['loading the program', 'step.program'],
  ['loading the speech synthesiser', 'step.synthesiser'],
  ['loading the speech recogniser', 'step.recogniser'],
  ['loading the language model', 'step.language_model'],
  ['loading the encoders', 'step.encoders'],
  ['loading the voice', 'step.voice'],
  ['loading weights', 'step.weights'],
  ['warming up', 'step.warming_up'],
  ['downloading', 'step.downloading'],
];

/** @param {string} doing */
function wordsOf(doing) {
  const [begin, key] = STEPS.find(([words]) => doing.startsWith(words)) ?? ['', ''];
  return key ? t(key) + doing.slice(begin.length) : doing;
}

/** @param {Starting} starting what is being done, how far it is, and since when */
export function stepOf({ doing, percent, step_s }) {
  const far = percent === null || percent === undefined ? '' : t('start.far', { percent: numberText(percent) });
  const since = step_s >= 1 ? t('start.since', { time: clockText(step_s) }) : '';
  return `${wordsOf(doing)}${far}${since}`;
}

/** @param {Starting} starting */
export function startText(starting) {
  return t('start.text', { step: stepOf(starting) });
}

/** @param {Starting} starting said to who waits in a call */
export function waitText(starting) {
  return t('start.wait', { step: stepOf(starting) });
}

/** @param {Info} info @returns {string} what the engine is, and what more it could be */
export function aboutText(info) {
  const { engine } = info;
  const kind = engineKind(info);
  const isNeural = engine?.speech === 'neural';
  const about = tOr(`engine.${kind}.${isNeural ? 'voice' : 'text'}`, engine?.description ?? '');
  return engine?.speech === 'basic' ? `${about} ${t('engine.extra')}` : about;
}

/** @param {Info|null} info @returns {'rules'|'chat'|string} `rules` and `chat`: the built-in engine by itself, or with a language model */
export function engineKind(info) {
  const { kind = '', description = '' } = info?.engine ?? {};
  if (kind !== 'builtin') return kind;
  return description.startsWith('A demo') ? 'rules' : 'chat';
}
