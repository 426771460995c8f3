/** How the two sides take turns: what the user chose, kept between visits, and what the server confirmed in a call. */

import { MODES, modeOf } from '../lib/modes.js';
import { memory } from './dom.js';

/** @typedef {import('../lib/modes.js').ModeName} ModeName */

/** Events: `change`. */
export class Mode extends EventTarget {
  #chosen = memory.read('mode');
  /** @type {ModeName|null} */ #inCall = null;
  /** @type {{mode: ModeName, eventId: string, before: string}|null} */ #asked = null;
  /** @type {ModeName[]} */ #supported = MODES;

  /** @returns {ModeName} what the next call begins with */
  get chosen() {
    const { supported } = this;
    return supported.find((mode) => mode === this.#chosen) ?? supported[0];
  }

  /** @returns {ModeName} what holds in the call, or will in the next one */
  get now() {
    return this.#inCall ?? this.chosen;
  }

  /** @returns {ModeName|null} asked for in the call and not yet confirmed */
  get asked() {
    return this.#asked?.mode ?? null;
  }

  get supported() {
    return this.#supported;
  }

  /** @param {readonly string[]|undefined} names as the server gives them; undefined: it does not say */
  support(names) {
    const known = MODES.filter((mode) => names?.includes(mode));
    this.#supported = known.length ? known : MODES;
    this.#changed();
  }

  /**
   * The user wants this mode, in this call (`eventId` is of the event that asks for it) or the next one.
   * @param {ModeName} mode @param {string} [eventId]
   */
  choose(mode, eventId) {
    const before = this.#asked?.before ?? this.#chosen;
    this.#asked = eventId ? { mode, eventId, before } : null;
    this.#keep(mode);
  }

  /** A call begins in this mode. @param {ModeName} mode */
  begin(mode) {
    this.#inCall = mode;
    this.#asked = null;
    this.#changed();
  }

  end() {
    this.#inCall = null;
    this.#asked = null;
    this.#changed();
  }

  /** @param {any} event of the server */
  apply(event) {
    if (event.type === 'session.created' || event.type === 'session.updated') {
      this.#inCall = modeOf(event.session) ?? this.#inCall;
      if (event.type === 'session.updated' && this.#inCall === this.asked) this.#asked = null;
      this.#changed();
    } else if (event.type === 'error' && this.#asked && event.error?.event_id === this.#asked.eventId) {
      const { before } = this.#asked;
      this.#asked = null;
      this.#keep(before);
    }
  }

  /** @param {string} chosen */
  #keep(chosen) {
    this.#chosen = chosen;
    memory.write('mode', chosen);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}
