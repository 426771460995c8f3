/** Sound levels of a stream, tapped with WebAudio. Nothing here reaches the loudspeaker. */

const FLOOR_DB = -60;
/** Comfort noise and codec residue stay below this. */
const AUDIBLE_DB = -50;
/** Digital silence, and what dither makes of it. */
const DEAD_DB = -75;
const HEARD_DB = -60;
const DEAD_AFTER_MS = 4000;

/** @type {AudioContext|null} */
let shared = null;

/** Call it from a user's gesture: browsers keep contexts made elsewhere suspended. */
export function wakeAudio() {
  const Context = window.AudioContext ?? /** @type {any} */ (window).webkitAudioContext;
  if (!Context) return;
  shared ??= new Context({ latencyHint: 'interactive' });
  if (shared.state === 'suspended') shared.resume().catch(() => {});
}

/** @returns {AudioContext|null} for sounds of the page itself; null before the first gesture */
export function audioContext() {
  return shared;
}

export class Meter {
  /** @type {AnalyserNode|null} */ #analyser = null;
  /** @type {MediaStreamAudioSourceNode|null} */ #source = null;
  #samples = new Float32Array(1024);
  /** Level in dBFS, -Infinity for digital silence. */
  level_db = -Infinity;

  /** @param {MediaStreamTrack|null} track null empties the meter */
  attach(track) {
    this.#source?.disconnect();
    this.#source = null;
    this.#analyser = null;
    this.level_db = -Infinity;
    if (!track || !shared) return;
    this.#analyser = new AnalyserNode(shared, { fftSize: this.#samples.length });
    this.#source = shared.createMediaStreamSource(new MediaStream([track]));
    this.#source.connect(this.#analyser);
  }

  /** Measures the last 20 ms or so. */
  read() {
    if (!this.#analyser) return;
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    this.level_db = 10 * Math.log10(sum / this.#samples.length);
  }

  get isRunning() {
    return this.#analyser !== null && shared?.state === 'running';
  }

  get isAudible() {
    return this.level_db > AUDIBLE_DB;
  }

  /** 0 to 1, as a bar shows it */
  get fraction() {
    return Math.min(1, Math.max(0, 1 - this.level_db / FLOOR_DB));
  }
}

/**
 * Notices a microphone from which nothing at all comes: switched off at the headset, muted by the system, or the wrong
 * one. A room is never that quiet before something was heard; later only digital silence counts, because noise
 * suppression can leave next to nothing of a quiet room.
 */
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
    this.isSilent = this.#since_ms > 0 && now_ms - this.#since_ms >= DEAD_AFTER_MS;
    return before !== this.isSilent;
  }
}
