/** Runs on the sound thread: passes what it hears to the page, some 40 ms at a time. */

const { AudioWorkletProcessor, registerProcessor } = /** @type {any} */ (globalThis);
const BLOCK = 2048;

class TapProcessor extends AudioWorkletProcessor {
  #block = new Int16Array(BLOCK);
  #filled = 0;

  /** @param {Float32Array[][]} inputs */
  process([[samples]]) {
    // No input is connected while the microphone changes.
    for (const sample of samples ?? []) {
      this.#block[this.#filled] = Math.max(-1, Math.min(1, sample)) * 32767;
      this.#filled += 1;
      if (this.#filled < BLOCK) continue;
      /** @type {any} */ (this).port.postMessage(this.#block, [this.#block.buffer]);
      this.#block = new Int16Array(BLOCK);
      this.#filled = 0;
    }
    return true;
  }
}

registerProcessor('tap', TapProcessor);
