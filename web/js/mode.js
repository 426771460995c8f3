/** How the two sides take turns: what the user chose, kept between visits, and what the server confirmed in a call. */

import { MODES, modeOf } from '../lib/settings.js';
import { memory } from './memory.js';

/** @typedef {import('../lib/settings.js').ModeName} ModeName */
/** @typedef {ModeName|'chat'} Choice `chat`: turns in writing, without a microphone */

/** @type {Choice[]} */
export const CHOICES = [...MODES, 'chat'];

/** @param {Choice} choice @returns {ModeName} what the server is to know of it */
export function sessionMode(choice) {
  return choice === 'chat' ? 'turn_based' : choice;
}

/** Events: `change`. */
export class Mode extends EventTarget {
  #chosen = memory.read('mode');
  /** @type {ModeName|null} */ #inCall = null;
  /** Nobody is heard in this call. */
  #isWritten = false;
  /** @type {{choice: Choice, eventId: string, before: string}|null} */ #asked = null;
  /** @type {Choice[]} */ #supported = CHOICES;

  /** @returns {Choice} what the next call begins with */
  get chosen() {
    const { supported } = this;
    return supported.find((choice) => choice === this.#chosen) ?? supported[0];
  }

  /** @returns {Choice} what holds in the call, or will in the next one */
  get now() {
    if (this.#isWritten && this.#inCall === 'turn_based') return 'chat';
    return this.#inCall ?? this.chosen;
  }

  /** Whether nothing is answered but what the user has sent or held the button for. */
  get isTurnBased() {
    return sessionMode(this.now) === 'turn_based';
  }

  /** @returns {Choice|null} asked for in the call and not yet confirmed */
  get asked() {
    return this.#asked?.choice ?? null;
  }

  get supported() {
    return this.#supported;
  }

  /** @param {readonly string[]|undefined} names as the server gives them; undefined: it does not say */
  support(names) {
    const known = CHOICES.filter((choice) => names?.includes(sessionMode(choice)));
    this.#supported = known.length ? known : CHOICES;
    this.#changed();
  }

  /**
   * The user wants this mode, in this call (`eventId` is of the event that asks for it) or the next one.
   * @param {Choice} choice @param {string} [eventId]
   */
  choose(choice, eventId) {
    const before = this.#asked?.before ?? this.#chosen;
    this.#asked = eventId ? { choice, eventId, before } : null;
    this.#keep(choice);
  }

  /** For this visit. @param {string} name as an address gives it; what is no mode is ignored */
  ask(name) {
    if (CHOICES.some((choice) => choice === name)) this.#chosen = name;
    this.#changed();
  }

  /** A call begins in this mode. @param {Choice} choice */
  begin(choice) {
    this.#inCall = sessionMode(choice);
    this.#isWritten = choice === 'chat';
    this.#asked = null;
    this.#changed();
  }

  /** @param {boolean} isHeard whether there is a microphone in this call */
  listenTo(isHeard) {
    this.#isWritten = !isHeard;
    this.#changed();
  }

  end() {
    this.#inCall = null;
    this.#asked = null;
    this.#isWritten = false;
    this.#changed();
  }

  /** @param {any} event of the server */
  apply(event) {
    if (event.type === 'session.created' || event.type === 'session.updated') {
      this.#inCall = modeOf(event.session) ?? this.#inCall;
      const isConfirmed = this.#asked && sessionMode(this.#asked.choice) === this.#inCall;
      if (event.type === 'session.updated' && isConfirmed) this.#asked = null;
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
