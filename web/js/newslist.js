/** A list that is asked for now and then, and changed by what is done to it meanwhile. */

import { Refusal } from '../lib/server.js';

/** @template T */
export class NewsList {
  #asked_ms = -Infinity;
  /** Grows with each question and each change: an answer to an older question is no news. */
  #number = 0;

  /**
   * @param {() => Promise<T>} ask
   * @param {T} none what there is for a key that may not see it
   * @param {number} every_ms
   * @param {() => number} now
   */
  constructor(ask, none, every_ms, now = () => performance.now()) {
    this.ask = ask;
    this.none = none;
    this.every_ms = every_ms;
    this.now = now;
  }

  /** @returns {Promise<T|null>} null: asked lately, not answered, or changed since: what is shown stays */
  async news() {
    if (this.now() - this.#asked_ms < this.every_ms) return null;
    this.#asked_ms = this.now();
    this.#number += 1;
    const number = this.#number;
    const answer = await this.ask().catch((error) => (error instanceof Refusal && error.kind === 'key' ? this.none : null));
    return number === this.#number ? answer : null;
  }

  /** Something was done to the list: the next question is asked at once. */
  changed() {
    this.#asked_ms = -Infinity;
    this.#number += 1;
  }
}
