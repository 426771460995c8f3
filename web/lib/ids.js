/** Ids that clients give to items and events. */

/** @param {'item'|'event'} kind @returns {string} `crypto.randomUUID` is missing on plain-HTTP pages */
export function newId(kind) {
  const values = crypto.getRandomValues(new Uint8Array(12));
  return `${kind}_${Array.from(values, (value) => value.toString(16).padStart(2, '0')).join('')}`;
}
