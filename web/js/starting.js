/** What the pages say about an engine that is still starting. */

import { clockText } from './dom.js';

/** @typedef {import('../lib/server.js').Starting} Starting */

/** @param {Starting} starting what is being done, how far it is, and since when */
export function stepOf({ doing, percent, step_s }) {
  const far = percent === null || percent === undefined ? '' : `, ${percent} %`;
  const since = step_s >= 1 ? `, for ${clockText(step_s)}` : '';
  return `${doing}${far}${since}`;
}

/** @param {Starting} starting */
export function startText(starting) {
  return `The engine is starting: ${stepOf(starting)}.`;
}

/** @param {Starting} starting said to who waits in a call */
export function waitText(starting) {
  return `The engine is starting: ${stepOf(starting)}. The call starts by itself.`;
}
