/**
 * Whose turn it is, derived from the server's events, and how long answers took to begin.
 *
 * Events: `turn` when the state changed, `latency` {ms}.
 */

/** Speech that was only noise is followed by no response. */
const NO_ANSWER_MS = 8000;
/** Long enough to be read, short enough not to hide what comes next. */
const INTERRUPTED_MS = 1500;
const MAX_LATENCIES = 100;

/** @typedef {'starting'|'queued'|'listening'|'hearing'|'thinking'|'speaking'|'interrupted'} Turn */

export class Talk extends EventTarget {
  /** @type {Turn} */ #turn = 'starting';
  /** @type {number[]} */ #latencies_ms = [];
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #timer;
  #userSpeaks = false;
  #isHeld = false;
  #isAnswering = false;
  /** performance.now() at the end of the user's speech or message, 0 once answered. */
  #asked_ms = 0;
  #isAudible = false;

  /** Place in the queue and estimate, while `turn` is `queued`. */
  queue = { position: 0, eta_s: 0 };

  /** @returns {Turn} */
  get turn() {
    return this.#turn;
  }

  /** A response is being made or played. */
  get isAnswering() {
    return this.#isAnswering || this.#turn === 'speaking';
  }

  /** @returns {{last_ms: number, p50_ms: number, count: number}|null} */
  get latency() {
    const sorted = [...this.#latencies_ms].sort((a, b) => a - b);
    if (!sorted.length) return null;
    const last_ms = /** @type {number} */ (this.#latencies_ms.at(-1));
    return { last_ms, p50_ms: sorted[Math.floor((sorted.length - 1) / 2)], count: sorted.length };
  }

  /** Waiting for the first sound of an answer: the page then looks at the level often. */
  get awaitsSound() {
    return this.#asked_ms > 0;
  }

  /** @param {any} event @param {number} now_ms */
  apply(event, now_ms) {
    switch (event.type) {
      case 'session.queued':
        this.queue = { position: Number(event.position) || 0, eta_s: Number(event.eta_s) || 0 };
        this.#become('queued', true);
        break;
      case 'session.created':
        this.#become('listening');
        break;
      case 'session.updated':
        if (this.#turn === 'queued' || this.#turn === 'starting') this.#become('listening');
        break;
      case 'input_audio_buffer.speech_started':
        this.#userSpeaks = true;
        this.#asked_ms = 0;
        // While an answer plays, its `cleared` decides whether this was an interruption.
        if (this.#turn !== 'speaking') this.#become('hearing');
        break;
      case 'input_audio_buffer.speech_stopped':
        this.#userSpeaks = false;
        if (this.#turn === 'speaking') break;
        this.asked(now_ms);
        break;
      case 'response.created':
        this.#isAnswering = true;
        if (this.#turn !== 'speaking' && !this.#userSpeaks) this.#become('thinking');
        break;
      case 'output_audio_buffer.started':
        this.#become('speaking');
        // The level may already have risen before this event crossed the network.
        if (this.#isAudible) this.#answered(now_ms);
        break;
      case 'output_audio_buffer.stopped':
        if (this.#turn === 'speaking') this.#rest();
        break;
      case 'output_audio_buffer.cleared':
        this.#asked_ms = 0;
        // Who holds the talk button has interrupted knowingly and wants to see that it hears.
        if (this.#isHeld) {
          this.#become('hearing');
          break;
        }
        this.#become('interrupted', true);
        this.#timer = setTimeout(() => this.#rest(), INTERRUPTED_MS);
        break;
      case 'response.done':
        this.#isAnswering = false;
        if (this.#turn === 'thinking') this.#rest();
        break;
      default:
    }
  }

  /** The user takes the word by hand, or gives it back. @param {boolean} isHeld */
  held(isHeld) {
    this.#isHeld = this.#userSpeaks = isHeld;
    if (isHeld) {
      this.#asked_ms = 0;
      this.#become('hearing');
    } else if (this.#turn === 'hearing') {
      this.#rest();
    }
  }

  /** Turns are taken in another way from now on: what was said before it may never be answered, or be told to end. */
  switched() {
    this.held(false);
    if (this.#turn !== 'thinking' || this.#isAnswering) return;
    this.#asked_ms = 0;
    this.#rest();
  }

  /** The user said or wrote something that wants an answer. @param {number} now_ms */
  asked(now_ms) {
    this.#asked_ms = now_ms;
    this.#become('thinking', true);
    this.#timer = setTimeout(() => {
      if (!this.#isAnswering) this.#rest();
    }, NO_ANSWER_MS);
  }

  /** @param {boolean} isAudible sound of the other side at the loudspeaker @param {number} now_ms */
  heard(isAudible, now_ms) {
    this.#isAudible = isAudible;
    if (isAudible && this.#turn === 'speaking') this.#answered(now_ms);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#asked_ms = 0;
  }

  /** @param {number} now_ms */
  #answered(now_ms) {
    if (!this.#asked_ms) return;
    const ms = now_ms - this.#asked_ms;
    this.#asked_ms = 0;
    this.#latencies_ms.push(ms);
    if (this.#latencies_ms.length > MAX_LATENCIES) this.#latencies_ms.shift();
    this.dispatchEvent(new CustomEvent('latency', { detail: { ms } }));
  }

  #rest() {
    if (this.#userSpeaks) this.#become('hearing');
    else this.#become(this.#isAnswering ? 'thinking' : 'listening');
  }

  /** @param {Turn} turn @param {boolean} [always] tell even if only details changed */
  #become(turn, always = false) {
    clearTimeout(this.#timer);
    if (this.#turn === turn && !always) return;
    this.#turn = turn;
    this.dispatchEvent(new Event('turn'));
  }
}

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
