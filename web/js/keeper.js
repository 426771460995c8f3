/**
 * Keeps the conversation that is shown: in the history as it grows, if that is wanted, and in the tab, so that a reload
 * in a call comes back to it. No document here.
 */

import { isWorthKeeping, newChatId } from './chat.js';

const WRITE_AFTER_MS = 800;
/** A tab that was closed and restored later is not called back. */
const COME_BACK_WITHIN_MS = 120_000;
/** Tabs may hold 5 MB; words beyond this are left to the history. */
const MAX_TAB_CHARS = 500_000;
const TAB_KEY = 'omnicall.chat';

/** @typedef {import('./chat.js').Chat} Chat */
/** @typedef {{mode: string, listenOnly: boolean, resume?: string}} Call what was under way when the page was left */

export class Keeper {
  /** @type {Chat} */ #chat = fresh();
  /** Sounds and files whose message was not kept yet. @type {import('./history.js').Media[]} */ #media = [];
  /** @type {ReturnType<typeof setTimeout>|0} */ #timer = 0;
  #captions;
  #history;
  #tab;
  /** Whether conversations go into the history. */
  isOn;

  /**
   * @param {import('../lib/captions.js').Captions} captions
   * @param {import('./history.js').History} history
   * @param {Pick<Storage, 'getItem'|'setItem'|'removeItem'>} tab
   * @param {boolean} isOn
   */
  constructor(captions, history, tab, isOn) {
    this.#captions = captions;
    this.#history = history;
    this.#tab = tab;
    this.isOn = isOn;
    for (const type of ['added', 'changed', 'removed']) captions.addEventListener(type, () => this.#later());
  }

  /** @returns {Chat} as it stands */
  get chat() {
    return { ...this.#chat, rows: this.#captions.list().map(withoutFiles) };
  }

  get id() {
    return this.#chat.id;
  }

  /** @param {string} mode of the call that goes on with it */
  begin(mode) {
    this.#chat.mode = mode;
  }

  /** Another conversation begins; this one is kept. @returns {Promise<void>} */
  async renew() {
    await this.write();
    this.#chat = fresh();
    this.#captions.clear();
    this.#forgetTimer();
  }

  /** @param {Chat} chat goes on from now @returns {Promise<void>} */
  async reopen(chat) {
    await this.write();
    this.#chat = { ...chat, votes: { ...chat.votes } };
    this.#captions.restore(chat.rows);
    this.#forgetTimer();
  }

  /** What is shown was deleted from the history: it is gone from the page, too. @returns {Promise<void>} */
  async forget() {
    this.#forgetTimer();
    this.#media = [];
    this.#chat = fresh();
    this.#captions.clear();
    this.#forgetTimer();
  }

  /** @param {string} row a message's id @returns {import('./chat.js').Vote|null} */
  voteOf(row) {
    return this.#chat.votes?.[row] ?? null;
  }

  /** @param {string} row @param {import('./chat.js').Vote|null} vote */
  vote(row, vote) {
    const votes = { ...this.#chat.votes };
    if (vote) votes[row] = vote;
    else delete votes[row];
    this.#chat.votes = votes;
    this.#later();
  }

  /** @param {string} row a message's id @param {number} index @param {Blob} blob that belongs to it */
  addMedia(row, index, blob) {
    if (!this.isOn) return;
    this.#media.push({ chat: this.#chat.id, row, index, blob });
    // A page that is left has no time for large things.
    this.write();
  }

  /** Writes what changed; never throws: a browser that keeps nothing must not end a call. */
  async write() {
    this.#forgetTimer();
    const { chat } = this;
    if (!this.isOn || !isWorthKeeping(chat)) return;
    const media = this.#media.splice(0);
    try {
      await this.#history.keep(chat);
      for (const one of media) await this.#history.keepMedia(one);
    } catch {
      // The space is used up, or storage is forbidden.
    }
  }

  /** The page goes away: what a reload finds. @param {Call|null} call */
  leave(call) {
    this.write();
    const { chat } = this;
    const rows = withinChars(chat.rows, MAX_TAB_CHARS);
    try {
      this.#tab.setItem(TAB_KEY, JSON.stringify({ chat: { ...chat, rows }, call, left_ms: Date.now() }));
    } catch {
      this.#tab.removeItem(TAB_KEY);
    }
  }

  /**
   * What this tab showed before it was reloaded, once.
   * @returns {{chat: Chat, call: Call|null}|null} `call` only if it was left a moment ago
   */
  comeBack(now_ms = Date.now()) {
    try {
      const { chat, call, left_ms } = JSON.parse(this.#tab.getItem(TAB_KEY) ?? 'null') ?? {};
      this.#tab.removeItem(TAB_KEY);
      if (typeof chat?.id !== 'string' || !Array.isArray(chat.rows)) return null;
      return { chat, call: call && now_ms - left_ms < COME_BACK_WITHIN_MS ? call : null };
    } catch {
      return null;
    }
  }

  #later() {
    this.#chat.changed_ms = Date.now();
    if (!this.#timer) this.#timer = setTimeout(() => this.write(), WRITE_AFTER_MS);
  }

  #forgetTimer() {
    clearTimeout(this.#timer || undefined);
    this.#timer = 0;
  }
}

/** @param {import('../lib/captions.js').Caption} row @returns {import('../lib/captions.js').Caption} files are kept apart */
function withoutFiles(row) {
  return row.media ? { ...row, media: row.media.map(({ name, kind }) => ({ name, kind })) } : row;
}

/** @returns {Chat} */
function fresh() {
  const now_ms = Date.now();
  return { id: newChatId(now_ms), begun_ms: now_ms, changed_ms: now_ms, mode: '', rows: [] };
}

/** @param {Chat['rows']} rows @param {number} chars @returns {Chat['rows']} the newest */
function withinChars(rows, chars) {
  let left = chars;
  let first = rows.length;
  while (first > 0 && left >= rows[first - 1].text.length) {
    first -= 1;
    left -= rows[first].text.length;
  }
  return rows.slice(first);
}
