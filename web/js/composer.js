/** The line in which messages are written, with what is attached to them. */

import { AttachView } from './attachview.js';
import { byId } from './dom.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */

export class Composer {
  #attach = new AttachView();
  /** The message that is written anew, '' for a new one. */
  #edited = '';

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
    byId('text').addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => {
      if (event.key === 'Escape' && this.#edited) this.#stopEditing();
    });
    byId('edit-cancel').addEventListener('click', () => this.#stopEditing());
    this.#attach.addEventListener('change', () => this.show());
  }

  show() {
    byId('send').disabled = this.#attach.isBusy || !(byId('text').value.trim() || this.#attach.files.length);
  }

  /** @param {string} text sent as if it had been written here */
  say(text) {
    byId('text').value = text;
    this.send();
  }

  /** What was said after it goes once it is sent anew. @param {import('../lib/captions.js').Caption} caption of a written message */
  edit({ id, text }) {
    this.#edited = id;
    byId('editing').hidden = false;
    byId('text').value = text;
    byId('text').focus();
    this.show();
  }

  #stopEditing() {
    this.#edited = '';
    byId('editing').hidden = true;
    byId('text').value = '';
    this.show();
  }

  async send() {
    const box = byId('text');
    const text = box.value.trim();
    const { files } = this.#attach;
    const { conversation } = this;
    // While the browser asks for the microphone there is no call yet that could carry it.
    if (!(text || files.length) || this.#attach.isBusy || conversation.isAsking) return;
    if (!conversation.isInCall && !this.mayBegin()) return;
    if (this.#edited) conversation.takeBack(this.#edited);
    this.#stopEditing();
    if (!files.length) {
      conversation.write(text);
      this.show();
      return;
    }
    const isSent = await conversation.show(files, text, (fraction) => {
      this.#attach.progress(fraction);
      this.show();
    });
    if (!isSent && !box.value) box.value = text;
    this.#attach.done(isSent);
  }
}
