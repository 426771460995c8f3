/**
 * One side's sound of a recorded call: WAV files of 16 bits and one channel, each where it belongs in the recording.
 * Read in pieces, as an hour of it would fill the memory. No document here.
 */

const HEADER_BYTES = 44;
const RATE_AT = 24;
/** Read at a time where all of it is. */
const BLOCK_SAMPLES = 1 << 19;
const LOUDEST = 32768;

/** @typedef {{blob: Blob, hz: number, count: number}} Sound a file, and how many samples it has */
/** @typedef {Sound & {begin_s: number}} Part in the recording's time */
/** @typedef {{at_s: number, hz: number, samples: Float32Array<ArrayBuffer>}} Piece */

/** @param {Blob} blob @returns {Promise<Sound|null>} null where there is none in it */
export async function soundIn(blob) {
  if (blob.size <= HEADER_BYTES) return null;
  const header = new DataView(await blob.slice(0, HEADER_BYTES).arrayBuffer());
  return { blob, hz: header.getUint32(RATE_AT, true), count: Math.floor((blob.size - HEADER_BYTES) / 2) };
}

export class RecordedSide {
  /** @type {Part[]} */ #parts;

  /** @param {Part[]} parts in order */
  constructor(parts) {
    this.#parts = parts;
  }

  get length_s() {
    const last = this.#parts.at(-1);
    return last ? last.begin_s + last.count / last.hz : 0;
  }

  /** @param {number} from_s @param {number} to_s @returns {Promise<Piece[]>} what there is between them */
  async samples(from_s, to_s) {
    const pieces = [];
    for (const part of this.#parts) {
      const place = (/** @type {number} */ at_s) => Math.min(part.count, Math.max(0, Math.round((at_s - part.begin_s) * part.hz)));
      const [first, end] = [place(from_s), place(to_s)];
      if (end > first) pieces.push({ at_s: part.begin_s + first / part.hz, hz: part.hz, samples: await read(part, first, end) });
    }
    return pieces;
  }

  /**
   * @param {number} count @param {number} length_s that they share @param {AbortSignal} [signal] nobody wants to know any more
   * @returns {Promise<number[]>} how loud each of so many stretches is, 0 to 1: its root mean square; raises what `signal` says
   */
  async levels(count, length_s, signal) {
    const sums = new Float64Array(count);
    for (const part of this.#parts) {
      for (let first = 0; first < part.count; first += BLOCK_SAMPLES) {
        signal?.throwIfAborted();
        const samples = await read(part, first, Math.min(part.count, first + BLOCK_SAMPLES));
        const scale = count / (length_s * part.hz);
        const shift = (part.begin_s * count) / length_s + first * scale;
        for (let at = 0; at < samples.length; at += 1) sums[Math.min(count - 1, Math.floor(shift + at * scale))] += samples[at] ** 2;
      }
    }
    // A stretch that is not filled is as loud as what there is in it, over all of its time.
    const each = this.#parts.map(({ hz }) => (hz * length_s) / count)[0] ?? 1;
    return [...sums].map((sum) => Math.sqrt(sum / each));
  }
}

/** @param {Part} part @param {number} first @param {number} end @returns {Promise<Float32Array<ArrayBuffer>>} -1 to 1 */
async function read({ blob }, first, end) {
  const view = new DataView(await blob.slice(HEADER_BYTES + 2 * first, HEADER_BYTES + 2 * end).arrayBuffer());
  const samples = new Float32Array(view.byteLength >> 1);
  for (let at = 0; at < samples.length; at += 1) samples[at] = view.getInt16(2 * at, true) / LOUDEST;
  return samples;
}
