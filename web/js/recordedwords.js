/** What was said and seen in a recorded call, and when in the recording's time, from what the server kept. No document here. */

import { RecordedSide } from './recordedside.js';

/**
 * @typedef {Object} SaidLine
 * @property {string} id
 * @property {'user'|'assistant'|'system'|'function'} role
 * @property {string} text
 * @property {number} at_s where it begins
 * @property {string} [rating] `up` or `down`, as the caller found it
 * @property {string} [comment]
 */

/** @typedef {{at_s: number, start: number, size: number}} Picture where it begins among all of them, in bytes */

/**
 * @typedef {Object} Timed all of a recording, in its time, which begins with the first of it
 * @property {SaidLine[]} lines each item once, as it stood at the end, by when it began
 * @property {Picture[]} pictures
 * @property {RecordedSide[]} sides
 * @property {number} length_s to the end of the last of it
 */

/** @param {string} text a JSON value on each line @returns {any[]} those that can be read: a process may have died over the last */
function valuesOf(text) {
  return text.split('\n').flatMap((line) => {
    try {
      return line ? [JSON.parse(line)] : [];
    } catch {
      return [];
    }
  });
}

/** @param {any} call as `call.json` holds it @returns {number[]} when each media worker's sound began, Unix seconds */
export function beginningsOf(call) {
  return call.sounds_began_at?.length ? call.sounds_began_at : [call.began_at];
}

/**
 * @param {Object} kept
 * @param {number[]} kept.began_at of each media worker's sound
 * @param {(import('./recordedside.js').Sound|null)[][]} kept.sounds of each side by each of them
 * @param {string} kept.words `words.jsonl`
 * @param {string} kept.feedback `feedback.jsonl`
 * @param {string} kept.seen `pictures.jsonl`
 * @returns {Timed}
 */
export function timed({ began_at, sounds, words, feedback, seen }) {
  const said = valuesOf(words);
  const pictures = valuesOf(seen);
  const isAnySound = sounds.flat().some(Boolean);
  const others = [...said.map((line) => line.began_at ?? line.at), ...pictures.map(({ at }) => at)];
  const zero = [...(isAnySound || !others.length ? began_at : []), ...others].reduce((one, other) => Math.min(one, other));
  // Both sides of a media worker begin together, and after both of the one before.
  /** @type {number[]} */ const begin_s = [];
  let end_s = 0;
  for (const [index, at] of began_at.entries()) {
    begin_s.push(Math.max(at - zero, end_s));
    for (const side of sounds) end_s = Math.max(end_s, begin_s[index] + lengthOf(side[index]));
  }
  const placed = (/** @type {number} */ at) => {
    const index = Math.max(0, began_at.findLastIndex((began) => began <= at));
    const later_s = isAnySound ? begin_s[index] - (began_at[index] - zero) : 0;
    return at - zero + later_s;
  };
  const lines = linesOf(said, valuesOf(feedback), placed);
  const shown = pictures.map(({ at, start, size }) => ({ at_s: placed(at), start, size }));
  return {
    lines,
    pictures: shown,
    sides: sounds.map((side) => new RecordedSide(side.flatMap((sound, index) => (sound ? [{ ...sound, begin_s: begin_s[index] }] : [])))),
    length_s: [...lines, ...shown].reduce((most, { at_s }) => Math.max(most, at_s), isAnySound ? end_s : 0),
  };
}

/** @param {import('./recordedside.js').Sound|null|undefined} sound */
function lengthOf(sound) {
  return sound ? sound.count / sound.hz : 0;
}

/** @param {any[]} said @param {any[]} rated @param {(at: number) => number} placed @returns {SaidLine[]} */
function linesOf(said, rated, placed) {
  /** @type {Map<string, SaidLine>} */ const lines = new Map();
  for (const { item_id, role, text, at, began_at } of said) {
    const at_s = placed(began_at ?? at);
    const before = lines.get(item_id);
    lines.set(item_id, { id: item_id, role, text, at_s: Math.min(at_s, before?.at_s ?? Infinity) });
  }
  for (const { item_id, rating, comment } of rated) {
    const line = lines.get(item_id);
    if (line) Object.assign(line, { rating: rating ?? undefined, comment: comment || undefined });
  }
  return [...lines.values()].sort((a, b) => a.at_s - b.at_s);
}

/** @template {{at_s: number}} T @param {T[]} list in order @param {number} position_s @returns {T|null} the newest that has begun */
export function lastBy(list, position_s) {
  return list.findLast(({ at_s }) => at_s <= position_s + 0.01) ?? null;
}
