/** The last words of the conversation over the picture, for who looks there. Screen readers hear the captions. */

import { byId, setText } from './dom.js';
import { memory } from './memory.js';

const MAX_CHARS = 160;
/** Words stay to be read for this long after they were heard. */
const STAY_MS = 6000;

/** @typedef {import('../lib/captions.js').Caption} Caption */

/** @param {string} text @returns {string} its end, from the beginning of a sentence or word where there is one */
export function tailOf(text) {
  if (text.length <= MAX_CHARS) return text;
  const tail = text.slice(-MAX_CHARS);
  const begin = tail.search(/(?<=[.!?]\s|[。！？])\S/);
  if (begin > 0 && begin < MAX_CHARS / 2) return tail.slice(begin);
  const space = tail.indexOf(' ');
  return `…${space >= 0 && space < MAX_CHARS / 4 ? tail.slice(space + 1) : tail}`;
}

export class Subtitles {
  #timer = 0;

  /** @param {import('../lib/captions.js').Captions} captions */
  constructor(captions) {
    const size = byId('subtitles-size');
    size.value = memory.read('subtitles') || 'normal';
    size.addEventListener('change', () => {
      memory.write('subtitles', size.value);
      this.#dress();
    });
    this.#dress();
    for (const type of ['added', 'changed']) {
      captions.addEventListener(type, (event) => this.#show(/** @type {CustomEvent} */ (event).detail.row));
    }
    captions.addEventListener('removed', () => this.#hide());
  }

  #dress() {
    byId('subtitles').dataset.size = byId('subtitles-size').value;
  }

  /** @param {Caption} row */
  #show(row) {
    if (row.role === 'note' || !row.text || row.typed || row.status === 'unwritten') return;
    const line = byId('subtitles');
    line.dataset.role = row.role;
    line.hidden = false;
    setText(line, tailOf(row.text));
    clearTimeout(this.#timer);
    if (row.status !== 'growing') this.#timer = window.setTimeout(() => this.#hide(), STAY_MS);
  }

  #hide() {
    byId('subtitles').hidden = true;
  }
}
