/** A sound that passes by, of which stretches can be cut out a little later. No document here. */

const BYTES_PER_SAMPLE = 2;

export class SoundTape {
  /** @type {Int16Array[]} */ #blocks = [];
  /** Samples that passed before the first block that is held. */
  #begin = 0;
  #end = 0;
  #rate;
  #lead;
  #most;
  /** Whether a stretch has begun that may be cut out: nothing of it is let go then. */
  isHeld = false;

  /**
   * @param {number} rate in Hz
   * @param {{lead_s?: number, most_s?: number}} [bounds] how much is remembered at any time, and of a stretch
   */
  constructor(rate, { lead_s = 3, most_s = 120 } = {}) {
    this.#rate = rate;
    this.#lead = lead_s * rate;
    this.#most = most_s * rate;
  }

  /** @returns {number} how much has passed in all */
  get passed_s() {
    return this.#end / this.#rate;
  }

  /** @param {Int16Array} block is kept as it is */
  push(block) {
    this.#blocks.push(block);
    this.#end += block.length;
    const room = this.isHeld ? this.#most : this.#lead;
    while (this.#end - this.#begin - this.#blocks[0].length >= room) {
      this.#begin += /** @type {Int16Array} */ (this.#blocks.shift()).length;
    }
  }

  /** @param {number} from_s @param {number} to_s as `passed_s` counts @returns {Int16Array} what is still held of it */
  cut(from_s, to_s) {
    const from = Math.max(this.#begin, Math.round(from_s * this.#rate));
    const to = Math.min(this.#end, Math.round(to_s * this.#rate));
    const samples = new Int16Array(Math.max(0, to - from));
    let at = this.#begin;
    for (const block of this.#blocks) {
      const first = Math.max(from, at);
      const last = Math.min(to, at + block.length);
      if (first < last) samples.set(block.subarray(first - at, last - at), first - from);
      at += block.length;
    }
    return samples;
  }
}

/** @param {Int16Array} samples of one channel @param {number} rate in Hz @returns {Blob} a WAV file */
export function wavOf(samples, rate) {
  const bytes = samples.length * BYTES_PER_SAMPLE;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const word = (/** @type {number} */ at, /** @type {string} */ text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, 'RIFF');
  view.setUint32(4, 36 + bytes, true);
  word(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * BYTES_PER_SAMPLE, true);
  view.setUint16(32, BYTES_PER_SAMPLE, true);
  view.setUint16(34, 8 * BYTES_PER_SAMPLE, true);
  word(36, 'data');
  view.setUint32(40, bytes, true);
  samples.forEach((sample, i) => view.setInt16(44 + i * BYTES_PER_SAMPLE, sample, true));
  return new Blob([view], { type: 'audio/wav' });
}

/** @param {Int16Array} samples @returns {boolean} whether anything can be heard in them */
export function isSilent(samples) {
  return !samples.some((sample) => Math.abs(sample) > 100);
}
