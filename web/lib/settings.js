/** The settings of a session: how the two sides take turns, what holds, and the changes that are not confirmed yet. */

const MAX_ASKED = 16;

export class Settings {
  #now;
  /** @type {Record<string, any>[]} */ #asked = [];

  /** @param {Record<string, any>} first with which the call is placed */
  constructor(first) {
    this.#now = first;
  }

  /** What a new session is to begin with. */
  get now() {
    return this.#now;
  }

  /** The `session.update` events that have no answer yet, in order. */
  get asked() {
    return [...this.#asked];
  }

  /** @param {Record<string, any>} event a `session.update` with an id */
  ask(event) {
    this.#asked.push(event);
    if (this.#asked.length > MAX_ASKED) this.#asked.shift();
  }

  /** @param {any} event of the server, which answers changes in their order */
  apply(event) {
    if (event.type === 'session.updated') {
      this.#now = merged(this.#now, this.#asked.shift()?.session ?? {});
    } else if (event.type === 'error' && event.error?.event_id) {
      this.#asked = this.#asked.filter((change) => change.event_id !== event.error.event_id);
    }
  }
}

/**
 * Settings with a change applied as `session.update` does: objects member by member, all else replaced.
 * @param {Record<string, any>} settings
 * @param {Record<string, any>} change
 * @returns {Record<string, any>} new
 */
export function merged(settings, change) {
  const result = { ...settings };
  for (const [name, value] of Object.entries(change)) {
    result[name] = isPlain(value) && isPlain(result[name]) ? merged(result[name], value) : value;
  }
  return result;
}

/** @param {unknown} value */
function isPlain(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** @typedef {'full_duplex'|'half_duplex'|'turn_based'} ModeName as `/api/info` names them */

/** @type {ModeName[]} */
export const MODES = ['full_duplex', 'half_duplex', 'turn_based'];

/** @type {Record<ModeName, {type: string}|null>} */
const TURN_DETECTION = {
  full_duplex: { type: 'semantic_vad' },
  half_duplex: { type: 'server_vad' },
  turn_based: null,
};

/**
 * @param {ModeName} mode @param {Record<string, any>} [turns] more of its `turn_detection`
 * @returns {Record<string, any>} the session settings that stand for it
 */
export function settingsOf(mode, turns = {}) {
  const detection = TURN_DETECTION[mode];
  return { audio: { input: { turn_detection: detection && { ...detection, ...turns } } } };
}

/** @param {any} session of the server @returns {ModeName|null} null if it does not say */
export function modeOf(session) {
  const detection = session?.audio?.input?.turn_detection;
  if (detection === undefined) return null;
  return MODES.find((mode) => (TURN_DETECTION[mode]?.type ?? null) === (detection?.type ?? null)) ?? null;
}
