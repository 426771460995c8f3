/** The line in which messages are written, with what is attached to them. */

import { AttachView } from './attachview.js';
import { byId } from './dom.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */

export class Composer {
  #attach = new AttachView();

  /**
   * @param {Conversation} conversation
   * @param {() => boolean} mayBegin asked before a message that places a call; says why not
   */
  constructor(conversation, mayBegin) {
    this.conversation = conversation;
    this.mayBegin = mayBegin;
    byId('write').addEventListener('submit', (/** @type {Event} */ event) => {
      event.preventDefault();
      this.send();
    });
    byId('text').addEventListener('input', () => this.show());
    this.#attach.addEventListener('change', () => this.show());
  }

  show() {
    byId('send').disabled = this.#attach.isBusy || !(byId('text').value.trim() || this.#attach.file);
  }

  /** @param {string} text sent as if it had been written here */
  say(text) {
    byId('text').value = text;
    this.send();
  }

  async send() {
    const box = byId('text');
    const text = box.value.trim();
    const { file } = this.#attach;
    const { conversation } = this;
    // While the browser asks for the microphone there is no call yet that could carry it.
    if (!(text || file) || this.#attach.isBusy || conversation.isAsking) return;
    if (!conversation.isInCall && !this.mayBegin()) return;
    box.value = '';
    if (!file) {
      conversation.write(text);
      this.show();
      return;
    }
    const isSent = await conversation.show(file, text, (fraction) => {
      this.#attach.progress(fraction);
      this.show();
    });
    if (!isSent && !box.value) box.value = text;
    this.#attach.done(isSent);
  }
}
