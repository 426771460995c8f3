/** What is left of a wait that the server has estimated. */

export class Countdown {
  #until_ms = 0;

  /** @param {number} seconds 0: unknown @param {number} now_ms */
  set(seconds, now_ms) {
    this.#until_ms = seconds ? now_ms + seconds * 1000 : 0;
  }

  /** @param {number} now_ms @returns {number} seconds, at least one while it is known; 0 if it is not */
  left_s(now_ms) {
    return this.#until_ms ? Math.max(1, (this.#until_ms - now_ms) / 1000) : 0;
  }
}
