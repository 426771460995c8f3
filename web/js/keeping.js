/**
 * What stays of conversations in this browser: the history, the sounds and files of the one that is shown, what the
 * user thought of its answers, and the way back after a reload.
 */

import { CaptionView } from './captionview.js';
import { byId } from './dom.js';
import { Files } from './files.js';
import { History } from './history.js';
import { Keeper } from './keeper.js';
import { memory } from './memory.js';
import { stopSounds } from './soundbutton.js';

/** @typedef {import('../lib/captions.js').Caption} Caption */
/** @typedef {import('./chat.js').Chat} Chat */

/** @returns {Pick<Storage, 'getItem'|'setItem'|'removeItem'>} of this tab, or of this page where storage is forbidden */
function tabStorage() {
  try {
    return window.sessionStorage;
  } catch {
    return { getItem: () => null, setItem() {}, removeItem() {} };
  }
}

export class Keeping {
  #conversation;
  #history = new History();
  #files = new Files();
  #keeper;
  /** Loaded with the panel that shows it. @type {import('./historyview.js').HistoryView|null} */ #view = null;

  /**
   * @param {import('./conversation.js').Conversation} conversation
   * @param {(caption: Caption) => void} edit
   * @param {() => void} onOpened another conversation is shown
   */
  constructor(conversation, edit, onOpened) {
    this.#conversation = conversation;
    const { captions } = conversation;
    const isOn = memory.read('history') !== 'off';
    this.#keeper = new Keeper(captions, this.#history, tabStorage(), isOn);
    // Before the view of the captions, which shows what is held here.
    captions.addEventListener('added', (event) => this.#takeFiles(/** @type {CustomEvent} */ (event).detail.row));
    captions.addEventListener('changed', (event) => this.#keepUnwritten(/** @type {CustomEvent} */ (event).detail.row));
    const view = new CaptionView(byId('captions'), byId('captions-empty'), captions, {
      edit,
      again: ({ id }) => conversation.writing.answerAnew(id),
      voteOf: ({ id }) => this.#keeper.voteOf(id),
      vote: ({ id }, vote) => {
        this.#keeper.vote(id, vote);
        // It stays here where the server keeps none, or knows the answer no more.
        conversation.call?.rate(id, vote?.is ?? null, vote?.word).catch(() => {});
      },
      filesOf: ({ id }) => this.#files.of(id),
    });
    this.#files.addEventListener('change', (event) => view.dress(/** @type {CustomEvent} */ (event).detail.row));
    conversation.sounds.addEventListener('sound', (event) => {
      const { id, blob } = /** @type {CustomEvent} */ (event).detail;
      this.#addSound(id, blob);
    });
    byId('history').addEventListener('open', () => this.#loadView(onOpened), { once: true });
  }

  /** @param {() => void} onOpened */
  async #loadView(onOpened) {
    const { HistoryView } = await import('./historyview.js');
    const view = new HistoryView(this.#history, this.#keeper.isOn, () => this.#keeper.write());
    this.#view = view;
    this.#bindView(view, onOpened);
    view.mark(this.#keeper.id);
    await view.refresh();
  }

  /** @param {EventTarget} view @param {() => void} onOpened */
  #bindView(view, onOpened) {
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
      view.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail));
    on('open', async ({ chat }) => {
      await this.open(chat);
      onOpened();
    });
    on('fresh', async () => {
      await this.renew();
      onOpened();
    });
    on('gone', async ({ id }) => {
      if (id && id !== this.#keeper.id) return;
      await this.#keeper.forget();
      this.#view?.mark(this.#keeper.id);
    });
    on('switched', ({ isOn }) => {
      memory.write('history', isOn ? 'on' : 'off');
      this.#keeper.isOn = isOn;
      this.#keeper.write();
    });
  }

  /** Another conversation begins; a call that is under way ends. */
  async renew() {
    this.#conversation.hangUp();
    stopSounds();
    await this.#keeper.renew();
    this.#files.clear();
    this.#view?.mark(this.#keeper.id);
  }

  /** Shows a kept conversation: the next call goes on from it. @param {Chat} chat */
  async open(chat) {
    if (chat.id === this.#keeper.id) return;
    this.#conversation.hangUp();
    stopSounds();
    this.#files.clear();
    await this.#keeper.reopen(chat);
    this.#view?.mark(chat.id);
    await this.#fetchFiles(chat.id);
  }

  /** Shows what this tab showed before it was reloaded. @returns {Promise<import('./keeper.js').Call|null>} that was cut off */
  async comeBack() {
    const found = this.#keeper.comeBack();
    if (!found) return null;
    await this.#keeper.reopen(found.chat);
    this.#view?.mark(found.chat.id);
    this.#fetchFiles(found.chat.id);
    return found.call;
  }

  /** The page goes away. */
  leave() {
    const { call, mode } = this.#conversation;
    const how = call && { mode: mode.now, listenOnly: call.listenOnly };
    this.#keeper.leave(call && how ? { ...how, resume: call.suspend() } : null);
  }

  /** @param {string} mode of the call that begins */
  begin(mode) {
    this.#keeper.begin(mode);
  }

  /** @param {string} chat its id */
  async #fetchFiles(chat) {
    const media = await this.#history.mediaOf(chat).catch(() => []);
    if (chat !== this.#keeper.id) return;
    for (const { row, index, blob } of media) this.#files.add(row, index, blob);
  }

  /** @param {Caption} row */
  #takeFiles({ id, media = [] }) {
    media.forEach(({ file }, index) => {
      if (!file) return;
      this.#files.add(id, index, file);
      this.#keeper.addMedia(id, index, file);
    });
  }

  /** @param {string} id of an item or a response @param {Blob} blob */
  #addSound(id, blob) {
    const row = this.#conversation.captions.list().find((one) => one.id === id || one.responseId === id);
    this.#files.add(row?.id ?? id, -1, blob);
    if (row) this.#keepUnwritten(row);
  }

  /** What is not written down would be lost without its sound; the rest can be read. @param {Caption} row */
  #keepUnwritten({ id, role, status }) {
    const sound = this.#files.of(id).get(-1);
    if (sound && role === 'user' && (status === 'unwritten' || status === 'failed')) this.#keeper.addMedia(id, -1, sound);
  }
}
