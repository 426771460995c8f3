/**
 * Plays both sides of a recorded call on one clock, so that they stay in step however long it is. No document here.
 *
 * Events: `change` (it plays, or does not; it was put elsewhere), `error` (its sound could not be read, and it stands still).
 */

const CHUNK_S = 8;
/** So much is read and handed over before it sounds. */
const AHEAD_S = 10;
const LEAD_S = 0.05;
const LOOK_EVERY_MS = 250;

export class RecordedPlayer extends EventTarget {
  #sides;
  #context;
  /** Where it stands while nothing plays. */
  #from_s = 0;
  /** When on the context's clock the recording began, or would have; NaN while that clock still stands. */
  #zero_s = NaN;
  /** Grows with each start and stop: what is read late is not played. */
  #run = 0;
  /** @type {Set<AudioBufferSourceNode>} */ #sources = new Set();
  /** It plays, or is about to. */
  isPlaying = false;

  /**
   * @param {Pick<import('./recordedside.js').RecordedSide, 'samples'>[]} sides @param {number} length_s of the recording, silence included
   * @param {AudioContext} context owned by this from now on
   */
  constructor(sides, length_s, context) {
    super();
    this.#sides = sides;
    this.length_s = length_s;
    this.#context = context;
  }

  get position_s() {
    if (!this.isPlaying || Number.isNaN(this.#zero_s)) return this.#from_s;
    return Math.min(this.length_s, Math.max(this.#from_s, this.#context.currentTime - this.#zero_s));
  }

  async play() {
    if (this.isPlaying) return;
    if (this.#from_s >= this.length_s) this.#from_s = 0;
    this.#run += 1;
    const run = this.#run;
    this.isPlaying = true;
    this.#zero_s = NaN;
    this.#changed();
    try {
      await this.#context.resume();
      if (run !== this.#run) return;
      this.#zero_s = this.#context.currentTime + LEAD_S - this.#from_s;
      await this.#feed(run, this.#from_s);
    } catch {
      if (run !== this.#run) return;
      this.pause();
      this.dispatchEvent(new Event('error'));
    }
  }

  pause() {
    this.#from_s = this.position_s;
    this.#run += 1;
    this.isPlaying = false;
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    this.#changed();
  }

  /** @param {number} position_s */
  seek(position_s) {
    const { isPlaying } = this;
    this.pause();
    this.#from_s = Math.min(this.length_s, Math.max(0, position_s));
    this.#changed();
    if (isPlaying) this.play();
  }

  /** @param {number} run @param {number} from_s */
  async #feed(run, from_s) {
    let next_s = from_s;
    while (run === this.#run) {
      if (this.position_s >= this.length_s) {
        this.pause();
      } else if (next_s < Math.min(this.length_s, this.position_s + AHEAD_S)) {
        await this.#schedule(run, next_s, next_s + CHUNK_S);
        next_s += CHUNK_S;
      } else {
        await new Promise((resolve) => { setTimeout(resolve, LOOK_EVERY_MS); });
      }
    }
  }

  /** @param {number} run @param {number} from_s @param {number} to_s */
  async #schedule(run, from_s, to_s) {
    const found = await Promise.all(this.#sides.map((side) => side.samples(from_s, to_s)));
    if (run !== this.#run) return;
    for (const { at_s, hz, samples } of found.flat()) {
      const when_s = this.#zero_s + at_s;
      // What was read too late is played from where the other side is by now.
      const late_s = Math.max(0, this.#context.currentTime - when_s);
      if (late_s >= samples.length / hz) continue;
      const buffer = this.#context.createBuffer(1, samples.length, hz);
      buffer.copyToChannel(samples, 0);
      const source = this.#context.createBufferSource();
      source.buffer = buffer;
      source.connect(this.#context.destination);
      source.addEventListener('ended', () => this.#sources.delete(source));
      source.start(when_s + late_s, late_s);
      this.#sources.add(source);
    }
  }

  close() {
    this.pause();
    this.#context.close().catch(() => {});
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}
