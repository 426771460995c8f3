/** Shows captions as a conversation. New words are added as text nodes, so that a screen reader says only these. */

import { make } from './dom.js';
import { numberText, t, tongue } from './i18n.js';

/** Rows farther than this from the end were scrolled away by the user, who is then left in peace. */
const NEAR_END_PX = 80;

/** @typedef {import('../lib/captions.js').Caption} Caption */

export class CaptionView {
  /** @type {Map<Caption, {row: HTMLElement, who: HTMLElement, words: HTMLElement, mark: HTMLElement}>} */ #shown = new Map();

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} empty shown while there is nothing to show
   * @param {import('../lib/captions.js').Captions} captions
   */
  constructor(list, empty, captions) {
    this.list = list;
    this.empty = empty;
    captions.addEventListener('added', (event) => this.#add(/** @type {CustomEvent} */ (event).detail.row));
    captions.addEventListener('changed', (event) => {
      const { row, appended } = /** @type {CustomEvent} */ (event).detail;
      this.#change(row, appended);
    });
    tongue.addEventListener('change', () => {
      for (const caption of this.#shown.keys()) this.#dress(caption);
    });
    captions.addEventListener('removed', (event) => this.#remove(/** @type {CustomEvent} */ (event).detail.row));
  }

  /** @param {Caption} caption */
  #add(caption) {
    const words = make('span', { class: 'words', text: wordsOf(caption) });
    const mark = make('span', { class: 'mark' });
    const who = make('span', { class: 'who', text: t(`speaker.${caption.role}`) });
    const row = make('div', { class: 'caption', 'data-role': caption.role }, who, make('p', {}, words, ' ', mark));
    if (caption.typed) row.dataset.typed = '';
    this.#shown.set(caption, { row, who, words, mark });
    this.#keepEnd(() => this.list.append(row));
    this.#dress(caption);
    this.empty.hidden = true;
  }

  /** @param {Caption} caption @param {string} [appended] */
  #change(caption, appended) {
    const shown = this.#shown.get(caption);
    if (!shown) return;
    this.#keepEnd(() => {
      if (appended === undefined) shown.words.textContent = wordsOf(caption);
      else if (appended) shown.words.append(appended);
      this.#dress(caption);
    });
  }

  /** @param {Caption} caption */
  #dress(caption) {
    const shown = this.#shown.get(caption);
    if (!shown) return;
    shown.row.dataset.status = caption.status;
    shown.row.dataset.empty = String(!wordsOf(caption));
    shown.who.textContent = t(`speaker.${caption.role}`);
    shown.mark.textContent = markOf(caption);
  }

  /** @param {Caption} caption */
  #remove(caption) {
    this.#shown.get(caption)?.row.remove();
    this.#shown.delete(caption);
    this.empty.hidden = this.list.childElementCount > 0;
  }

  /** @param {() => void} change */
  #keepEnd(change) {
    const { list } = this;
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END_PX;
    change();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }
}

/** @param {Caption} caption @returns {string} what was said, and the names of the files that went with it */
function wordsOf({ text, media = [] }) {
  return [text, ...media.map(({ name }) => `[${name}]`)].filter(Boolean).join(' ');
}

/** @param {Caption} caption */
function markOf(caption) {
  if (caption.status === 'cut') {
    return caption.heard_ms ? t('mark.cut_after', { seconds: numberText(caption.heard_ms / 1000, 1) }) : t('mark.cut');
  }
  if (caption.status === 'unwritten') return t('mark.unwritten');
  if (caption.status === 'failed') return t(caption.text ? 'mark.unfinished' : 'mark.not_understood');
  return '';
}

/** @param {Caption[]} captions @returns {string} the conversation as plain text */
export function transcriptOf(captions) {
  return captions
    .filter((caption) => wordsOf(caption))
    .map((caption) => `${t(`speaker.${caption.role}`)}: ${wordsOf(caption)} ${markOf(caption)}`.trimEnd())
    .join('\n');
}
