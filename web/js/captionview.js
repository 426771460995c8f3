/** Shows captions as a conversation. */

import { t, tongue } from './i18n.js';
import { MessageView, markOf } from './messageview.js';

/** Rows farther than this from the end were scrolled away by the user, who is then left in peace. */
const NEAR_END_PX = 80;

/** @typedef {import('../lib/captions.js').Caption} Caption */

export class CaptionView {
  /** @type {Map<Caption, MessageView>} */ #shown = new Map();
  #isAtEnd = true;
  #height = 0;

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} empty shown while there is nothing to show
   * @param {import('../lib/captions.js').Captions} captions
   * @param {import('./messageview.js').Deeds} deeds
   */
  constructor(list, empty, captions, deeds) {
    this.list = list;
    this.empty = empty;
    this.deeds = deeds;
    captions.addEventListener('added', (event) => this.#add(/** @type {CustomEvent} */ (event).detail.row));
    captions.addEventListener('changed', (event) => {
      const { row, appended } = /** @type {CustomEvent} */ (event).detail;
      this.#keepEnd(() => this.#shown.get(row)?.grow(appended));
    });
    captions.addEventListener('removed', (event) => this.#remove(/** @type {CustomEvent} */ (event).detail.row));
    list.addEventListener('scroll', () => {
      // Not where it was moved by another size, of which the observer has yet to hear.
      if (list.clientHeight === this.#height) this.#isAtEnd = this.#seesEnd();
    });
    // A phone that is turned, or whose keyboard opens, leaves less room: the last words stay in sight.
    new ResizeObserver(() => {
      this.#height = list.clientHeight;
      if (this.#isAtEnd) this.#goToEnd();
    }).observe(list);
    tongue.addEventListener('change', () => {
      for (const view of this.#shown.values()) view.dress();
    });
  }

  /** @param {string} id of a message that has a file or a sound more */
  dress(id) {
    for (const [caption, view] of this.#shown) {
      if (caption.id === id) this.#keepEnd(() => view.dress());
    }
  }

  /** @param {Caption} caption */
  #add(caption) {
    const view = new MessageView(caption, this.deeds);
    this.#shown.set(caption, view);
    this.#keepEnd(() => this.list.append(view.node));
    this.empty.hidden = true;
  }

  /** @param {Caption} caption */
  #remove(caption) {
    this.#shown.get(caption)?.forget();
    this.#shown.delete(caption);
    this.empty.hidden = this.list.childElementCount > 0;
  }

  /** @param {() => void} change */
  #keepEnd(change) {
    const isAtEnd = this.#seesEnd();
    change();
    if (isAtEnd) this.#goToEnd();
  }

  #seesEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.list;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  #goToEnd() {
    this.#isAtEnd = true;
    this.list.scrollTop = this.list.scrollHeight;
  }
}

/** @param {Caption[]} captions @returns {string} the conversation as plain text */
export function transcriptOf(captions) {
  return captions
    .map((caption) => ({ caption, words: [caption.text, ...(caption.media ?? []).map(({ name }) => `[${name}]`)].filter(Boolean).join(' ') }))
    .filter(({ words }) => words)
    .map(({ caption, words }) => `${t(`speaker.${caption.role}`)}: ${words} ${markOf(caption)}`.trimEnd())
    .join('\n');
}
