/** Figures of the model in a call, from the server's events and what the page hears. No document here. */

/** Where the server warns that the model's memory fills. */
export const CONTEXT_MARKS = [0.8, 0.9, 0.95];
/** The user's voice may pause between words without having begun anew. */
const VOICE_PAUSE_MS = 400;
/** A cut that comes this long after the voice began was not made by it. */
const LONGEST_CUT_MS = 5000;
/** One a second: what a line of the last minute is drawn from. */
const MAX_KEPT = 60;

/**
 * @typedef {Object} ModelNow all null while unknown
 * @property {number|null} context_tokens that the model remembers now
 * @property {number|null} context_limit that it can remember
 * @property {number|null} unit_ms to take in a unit of sound and decide, or a turn
 * @property {number|null} first_sound_ms from the answer's begin to its first sound here
 * @property {number|null} tokens_in of the last answer
 * @property {number|null} tokens_out
 * @property {number|null} cut_ms from the user's first sound to the answer's silence
 * @property {number|null} ahead_ms of speech that waits to be played
 */

/** @returns {ModelNow} */
function unknown() {
  return {
    context_tokens: null, context_limit: null, unit_ms: null, first_sound_ms: null,
    tokens_in: null, tokens_out: null, cut_ms: null, ahead_ms: null,
  };
}

export class ModelFigures {
  #now = unknown();
  #created_ms = 0;
  #voiceBegan_ms = 0;
  #voiceLast_ms = -Infinity;
  #isCut = false;
  /** @type {ModelNow[]} what was kept of the last minute, oldest first */ recent = [];

  /** @returns {ModelNow} */
  get now() {
    return { ...this.#now };
  }

  /** @returns {number|null} 0 to 1 */
  get contextShare() {
    const { context_tokens, context_limit } = this.#now;
    return context_tokens === null || !context_limit ? null : Math.min(1, context_tokens / context_limit);
  }

  /** Another call. */
  reset() {
    this.#now = unknown();
    this.#created_ms = this.#voiceBegan_ms = 0;
    this.#isCut = false;
    this.recent = [];
  }

  /** Call it once a second. */
  keep() {
    this.recent = [...this.recent, this.now].slice(-MAX_KEPT);
  }

  /** @param {any} event of the server @param {number} now_ms */
  apply(event, now_ms) {
    switch (event.type) {
      case 'metrics':
        this.#take(event.metrics ?? {});
        break;
      case 'response.created':
        this.#created_ms = now_ms;
        break;
      case 'output_audio_buffer.started':
        if (this.#created_ms) this.#now.first_sound_ms = Math.round(now_ms - this.#created_ms);
        this.#created_ms = 0;
        break;
      case 'output_audio_buffer.cleared':
        this.#isCut = this.#voiceBegan_ms > 0 && now_ms - this.#voiceBegan_ms < LONGEST_CUT_MS;
        break;
      case 'response.done':
        this.#now.tokens_in = number(event.response?.usage?.input_tokens) ?? this.#now.tokens_in;
        this.#now.tokens_out = number(event.response?.usage?.output_tokens) ?? this.#now.tokens_out;
        break;
      default:
    }
  }

  /** @param {boolean} isUser the user's voice is heard @param {boolean} isAnswer sound of the answer is @param {number} now_ms */
  hear(isUser, isAnswer, now_ms) {
    if (isUser) {
      if (now_ms - this.#voiceLast_ms > VOICE_PAUSE_MS) this.#voiceBegan_ms = now_ms;
      this.#voiceLast_ms = now_ms;
    }
    if (this.#isCut && !isAnswer) {
      this.#isCut = false;
      this.#now.cut_ms = Math.round(now_ms - this.#voiceBegan_ms);
    }
  }

  /** @param {Record<string, unknown>} told */
  #take(told) {
    const now = this.#now;
    // An engine that counts no context says 0.
    now.context_tokens = number(told.kv_tokens) || now.context_tokens;
    now.context_limit = number(told.context_tokens) || now.context_limit;
    now.unit_ms = number(told.unit_ms) ?? number(told.turn_ms) ?? number(told.respond_ms) ?? now.unit_ms;
    now.ahead_ms = number(told.ahead_ms) ?? now.ahead_ms;
  }
}

/** @param {unknown} value @returns {number|null} */
function number(value) {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}
