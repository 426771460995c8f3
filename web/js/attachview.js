/** The button and the line beside the text box that hold one file until the message is sent. */

import { byId, setText } from './dom.js';
import { numberText, t } from './i18n.js';

/** Events: `change` when a file came or went. */
export class AttachView extends EventTarget {
  /** @type {File|null} */ #file = null;
  #isBusy = false;

  constructor() {
    super();
    const input = byId('file');
    byId('attach').addEventListener('click', () => input.click());
    input.addEventListener('change', () => {
      this.#hold(input.files[0] ?? null);
      // The same file again would be no change.
      input.value = '';
      byId('text').focus();
    });
    byId('detach').addEventListener('click', () => this.#hold(null));
  }

  /** @returns {File|null} what the next message carries */
  get file() {
    return this.#file;
  }

  /** A file is on its way: nothing can be sent meanwhile. */
  get isBusy() {
    return this.#isBusy;
  }

  /** @param {number} fraction of the file that has left */
  progress(fraction) {
    this.#isBusy = true;
    const percent = Math.floor(fraction * 100);
    const state = percent < 100 ? t('attach.percent', { percent: numberText(percent) }) : t('attach.waiting');
    this.#show(`${this.#file?.name ?? ''} · ${state}`);
  }

  /** @param {boolean} isSent a file that was not stays for another try */
  done(isSent) {
    this.#isBusy = false;
    this.#hold(isSent ? null : this.#file);
  }

  /** @param {File|null} file */
  #hold(file) {
    this.#file = file;
    this.#show(file?.name ?? '');
    this.dispatchEvent(new Event('change'));
  }

  /** @param {string} text */
  #show(text) {
    byId('attached').hidden = !this.#file;
    byId('attach').disabled = this.#isBusy;
    byId('detach').hidden = this.#isBusy;
    setText(byId('attached-name'), text);
  }
}
