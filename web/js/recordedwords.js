/** What was said and seen in a recorded call, in the recording's time, from the lines that the server kept. No document here. */

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

/** @param {any} call as `call.json` holds it @returns {number[]} where each media worker's sound begins */
export function beginningsOf(call) {
  const all = /** @type {number[]} */ (call.sounds_began_at ?? []);
  return all.map((at) => at - all[0]);
}

/** @param {any} call @returns {number} the recording's beginning, Unix seconds */
function zeroOf(call) {
  return call.sounds_began_at?.[0] ?? call.began_at;
}

/**
 * @param {any} call @param {string} words `words.jsonl` @param {string} feedback `feedback.jsonl`
 * @returns {SaidLine[]} each item once, as it stood at the end, by when it began
 */
export function linesOf(call, words, feedback) {
  /** @type {Map<string, SaidLine>} */ const lines = new Map();
  for (const { item_id, role, text, at, began_at } of valuesOf(words)) {
    const at_s = Math.max(0, (began_at ?? at) - zeroOf(call));
    const before = lines.get(item_id);
    lines.set(item_id, { id: item_id, role, text, at_s: Math.min(at_s, before?.at_s ?? Infinity) });
  }
  for (const { item_id, rating, comment } of valuesOf(feedback)) {
    const line = lines.get(item_id);
    if (line) Object.assign(line, { rating: rating ?? undefined, comment: comment || undefined });
  }
  return [...lines.values()].sort((a, b) => a.at_s - b.at_s);
}

/** @param {any} call @param {string} seen `pictures.jsonl` @returns {Picture[]} */
export function picturesOf(call, seen) {
  return valuesOf(seen).map(({ at, start, size }) => ({ at_s: Math.max(0, at - zeroOf(call)), start, size }));
}

/** @template {{at_s: number}} T @param {T[]} list in order @param {number} position_s @returns {T|null} the newest that has begun */
export function lastBy(list, position_s) {
  return list.findLast(({ at_s }) => at_s <= position_s + 0.01) ?? null;
}
