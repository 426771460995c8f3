/** The files and sounds of the messages that are shown. No document here. Events: `change` {row}. */

const MAX_BYTES = 96 * 1024 * 1024;

export class Files extends EventTarget {
  /** @type {Map<string, Map<number, Blob>>} by message and place; -1 is the message's sound */ #held = new Map();
  #bytes = 0;

  /** @param {string} row @returns {Map<number, Blob>} */
  of(row) {
    return this.#held.get(row) ?? new Map();
  }

  /** @param {string} row @param {number} index @param {Blob} blob the oldest messages' go where they are too many */
  add(row, index, blob) {
    const files = this.#held.get(row) ?? new Map();
    this.#bytes += blob.size - (files.get(index)?.size ?? 0);
    this.#held.set(row, files.set(index, blob));
    for (const [oldest, gone] of this.#held) {
      if (this.#bytes <= MAX_BYTES || oldest === row) break;
      this.#held.delete(oldest);
      for (const one of gone.values()) this.#bytes -= one.size;
      this.#changed(oldest);
    }
    this.#changed(row);
  }

  clear() {
    this.#held.clear();
    this.#bytes = 0;
  }

  /** @param {string} row */
  #changed(row) {
    this.dispatchEvent(new CustomEvent('change', { detail: { row } }));
  }
}
