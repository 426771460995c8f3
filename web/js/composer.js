/** The line in which messages are written, and the files that wait beside it: chosen, dropped or pasted. */

import { byId, make, setText } from './dom.js';
import { numberText, t } from './i18n.js';

const MAX_FILES = 8;
const JPEG_QUALITY = 0.92;
const PHOTO_WITHIN_MS = 1500;

/** @typedef {import('./conversation.js').Conversation} Conversation */

/**
 * What a video shows now: read whole, where a model looks at a moving picture in less detail.
 * @param {HTMLVideoElement} video @returns {Promise<Blob|null>} null: nothing yet
 */
function stillOf(video) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext('2d')?.drawImage(video, 0, 0);
  return new Promise((resolve) => { canvas.toBlob(resolve, 'image/jpeg', JPEG_QUALITY); });
}

/** @param {MediaStreamTrack|null} track @returns {Promise<Blob|null>} as fine as the camera can; null: this is none, or it cannot now */
async function photoOf(track) {
  const late = new Promise((/** @type {(none: null) => void} */ resolve) => { window.setTimeout(() => resolve(null), PHOTO_WITHIN_MS); });
  try {
    const Photo = /** @type {any} */ (globalThis).ImageCapture;
    return await Promise.race([new Photo(track).takePhoto(), late]);
  } catch {
    return null;
  }
}

/** Events: `change` when a file came or went. */
class AttachView extends EventTarget {
  /** @type {File[]} */ #files = [];
  #isBusy = false;

  /** @param {Conversation} conversation */
  constructor(conversation) {
    super();
    const input = byId('file');
    byId('attach').addEventListener('click', () => input.click());
    input.addEventListener('change', () => {
      this.#add([...input.files]);
      // The same file again would be no change.
      input.value = '';
      byId('text').focus();
    });
    byId('snap').addEventListener('click', async () => {
      const blob = (await photoOf(conversation.picture)) ?? (await stillOf(byId('self')));
      if (blob) this.#add([new File([blob], `${t('attach.still')}.jpg`, { type: blob.type })]);
      byId('text').focus();
    });
    byId('detach').addEventListener('click', () => this.#hold([]));
    this.#bindDrop(byId('talk'));
    byId('text').addEventListener('paste', (/** @type {ClipboardEvent} */ event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) event.preventDefault();
      this.#add(files);
    });
  }

  /** @returns {File[]} what the next message carries */
  get files() {
    return this.#files;
  }

  /** Files are on their way: nothing can be sent meanwhile. */
  get isBusy() {
    return this.#isBusy;
  }

  /** @param {number} fraction of the files that has left */
  progress(fraction) {
    this.#isBusy = true;
    const percent = Math.floor(fraction * 100);
    this.#show(percent < 100 ? t('attach.percent', { percent: numberText(percent) }) : t('attach.waiting'));
  }

  /** @param {boolean} isSent files that were not stay for another try */
  done(isSent) {
    this.#isBusy = false;
    this.#hold(isSent ? [] : this.#files);
  }

  /** @param {HTMLElement} place */
  #bindDrop(place) {
    // Children tell of leaving, too; only where the pointer goes says whether the place was left.
    const isOutside = (/** @type {DragEvent} */ event) => !place.contains(/** @type {Node|null} */ (event.relatedTarget));
    place.addEventListener('dragover', (event) => {
      if (!event.dataTransfer?.types.includes('Files')) return;
      event.preventDefault();
      place.dataset.drop = '';
    });
    place.addEventListener('dragleave', (event) => isOutside(event) && delete place.dataset.drop);
    place.addEventListener('drop', (event) => {
      event.preventDefault();
      delete place.dataset.drop;
      this.#add([...(event.dataTransfer?.files ?? [])]);
    });
  }

  /** @param {File[]} files */
  #add(files) {
    if (files.length && !this.#isBusy) this.#hold([...this.#files, ...files].slice(0, MAX_FILES));
  }

  /** @param {File[]} files */
  #hold(files) {
    this.#files = files;
    this.#show();
    this.dispatchEvent(new Event('change'));
  }

  /** @param {string} [state] of what is on its way */
  #show(state = '') {
    byId('attached').hidden = !this.#files.length;
    byId('attach').disabled = this.#isBusy;
    byId('detach').hidden = this.#isBusy;
    byId('attached-files').replaceChildren(...this.#files.map((file) => this.#chip(file)));
    setText(byId('attached-state'), state);
  }

  /** @param {File} file */
  #chip(file) {
    const remove = make('button', { type: 'button', class: 'chip-remove', 'aria-label': t('attach.remove_one', { name: file.name }), text: '×' });
    remove.disabled = this.#isBusy;
    remove.addEventListener('click', () => this.#hold(this.#files.filter((one) => one !== file)));
    return make('li', { class: 'chip' }, make('span', { text: file.name }), remove);
  }
}

export class Composer {
  #attach;
  /** The message that is written anew, '' for a new one. */
  #edited = '';

  /**
   * @param {Conversation} conversation
   * @param {() => boolean} mayBegin asked before a message that places a call; says why not
   */
  constructor(conversation, mayBegin) {
    this.conversation = conversation;
    this.#attach = new AttachView(conversation);
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
    byId('snap').hidden = !this.conversation.picture;
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
    if (this.#edited) conversation.writing.takeBack(this.#edited);
    this.#stopEditing();
    if (!files.length) {
      conversation.writing.write(text);
      this.show();
      return;
    }
    const isSent = await conversation.writing.show(files, text, (fraction) => {
      this.#attach.progress(fraction);
      this.show();
    });
    if (!isSent && !box.value) box.value = text;
    this.#attach.done(isSent);
  }
}
