/**
 * Notices a microphone from which nothing at all comes: switched off at the headset, muted by the system, or the wrong
 * one. A room is never that quiet before something was heard; later only digital silence counts, because noise
 * suppression can leave next to nothing of a quiet room.
 */

const DEAD_DB = -75;
const HEARD_DB = -60;
const AFTER_MS = 4000;

export class SilenceWatch {
  #since_ms = 0;
  #wasHeard = false;
  isSilent = false;

  /** Another microphone, or another call. */
  reset() {
    this.#since_ms = 0;
    this.#wasHeard = this.isSilent = false;
  }

  /**
   * @param {number} level_db @param {boolean} isListening somebody should be heard now @param {number} now_ms
   * @returns {boolean} whether `isSilent` changed
   */
  read(level_db, isListening, now_ms) {
    const before = this.isSilent;
    this.#wasHeard ||= level_db > HEARD_DB;
    const isDead = level_db <= (this.#wasHeard ? -Infinity : DEAD_DB);
    if (!isListening || !isDead) this.#since_ms = 0;
    else this.#since_ms ||= now_ms;
    this.isSilent = this.#since_ms > 0 && now_ms - this.#since_ms >= AFTER_MS;
    return before !== this.isSilent;
  }
}
