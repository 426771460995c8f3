/** Presets to choose from: the server's, and the user's own, which stay in the browser. No document here. */

import { baseOf } from './languages.js';
import { memory } from './memory.js';
import { read } from './wishes.js';

const MAX_OWN = 50;
const MAX_NAME = 80;

/** @typedef {{kind: string, name: string, content_type: string, url: string}} PresetMedia that a conversation begins with */

/**
 * @typedef {Object} Preset as `/api/presets` tells it
 * @property {string} id
 * @property {string} name
 * @property {string} [description]
 * @property {string} mode
 * @property {string} language
 * @property {boolean} [camera]
 * @property {string} source
 * @property {Record<string, any>} session
 * @property {PresetMedia[]} [media]
 */

/** The user's own ones. Events: `change`. */
export class OwnPresets extends EventTarget {
  /** @type {Preset[]} */ #list = read('presets', /** @type {Preset[]} */ ([]));

  /** @returns {Preset[]} newest first */
  list() {
    return [...this.#list];
  }

  /**
   * @param {Omit<Preset, 'id'|'source'>} preset one of the same name is replaced
   * @returns {Preset|null} null: there is no room, or it has no name
   */
  save(preset) {
    const name = preset.name.trim().slice(0, MAX_NAME);
    const others = this.#list.filter((one) => one.name !== name);
    if (!name || others.length >= MAX_OWN) return null;
    const saved = { ...preset, name, source: 'browser', id: `own:${name}` };
    this.#keep([saved, ...others]);
    return saved;
  }

  /** @param {string} id */
  delete(id) {
    this.#keep(this.#list.filter((one) => one.id !== id));
  }

  /** @param {Preset[]} list */
  #keep(list) {
    this.#list = list;
    memory.write('presets', JSON.stringify(list));
    this.dispatchEvent(new Event('change'));
  }
}

/**
 * @param {Preset[]} presets
 * @param {{mode: string, language: string, canSee: boolean}} now
 * @returns {Preset[]} those for this mode and language first, then those for this mode, then the others
 */
export function inOrder(presets, { mode, language, canSee }) {
  const rank = (/** @type {Preset} */ preset) =>
    (preset.mode === mode ? 0 : 2) + (baseOf(preset.language) === language ? 0 : 1);
  const usable = presets.filter((preset) => canSee || !preset.camera);
  return usable.map((preset, place) => ({ preset, place }))
    .sort((a, b) => rank(a.preset) - rank(b.preset) || a.place - b.place)
    .map(({ preset }) => preset);
}
