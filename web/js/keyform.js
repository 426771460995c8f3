/** The form that asks for the access key. */

import { byId, setText } from './dom.js';
import { t, tongue } from './i18n.js';
import { readKey, saveKey } from './key.js';

export class KeyForm {
  #said = 'key.wanted';

  /** @param {() => void} onKey after it was stored */
  constructor(onKey) {
    byId('key-form').addEventListener('submit', (/** @type {Event} */ event) => {
      event.preventDefault();
      saveKey(byId('key').value);
      byId('key').value = '';
      byId('key-form').hidden = true;
      onKey();
    });
    tongue.addEventListener('change', () => this.#show());
  }

  get isOpen() {
    return !byId('key-form').hidden;
  }

  /** @param {string} [wanted] the words for it where none was refused */
  ask(wanted = 'key.wanted') {
    this.#said = readKey() ? 'key.refused' : wanted;
    this.#show();
    byId('key-form').hidden = false;
    byId('key').focus();
  }

  #show() {
    setText(byId('key-text'), t(this.#said));
  }
}
