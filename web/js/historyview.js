/**
 * The list of conversations kept in this browser.
 *
 * Events: `open` {chat}, `fresh` (a new conversation is wanted), `gone` {id} ('' for all), `switched` {isOn}.
 */

import { fileNameOf, findIn, jsonOf, markdownOf, titleOf } from './chat.js';
import { byId, make, setText } from './dom.js';
import { dateText, t, tongue } from './i18n.js';

const SEARCH_AFTER_MS = 150;
const MAX_SHOWN = 100;

/** @typedef {import('./chat.js').Chat} Chat */

export class HistoryView extends EventTarget {
  /** @type {Chat[]} */ #chats = [];
  #current = '';
  #timer = 0;
  #history;
  #settle;

  /**
   * @param {import('./history.js').History} history
   * @param {boolean} isOn
   * @param {() => Promise<void>} settle what was said last is written before the list is read
   */
  constructor(history, isOn, settle) {
    super();
    this.#history = history;
    this.#settle = settle;
    const panel = byId('history');
    panel.addEventListener('open', () => this.refresh());
    byId('history-search').addEventListener('input', () => {
      clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => this.#show(), SEARCH_AFTER_MS);
    });
    byId('history-fresh').addEventListener('click', () => this.#emit('fresh'));
    byId('history-keep').checked = isOn;
    byId('history-keep').addEventListener('change', () => this.#emit('switched', { isOn: byId('history-keep').checked }));
    byId('history-clear').addEventListener('click', () => this.#clear());
    tongue.addEventListener('change', () => this.#show());
  }

  /** @param {string} id of the conversation that is shown on the page */
  mark(id) {
    this.#current = id;
    this.#show();
  }

  async refresh() {
    await this.#settle();
    this.#chats = await this.#history.list().catch(() => []);
    this.#show();
  }

  #show() {
    const query = byId('history-search').value.trim();
    const found = this.#chats.flatMap((chat) => {
      const where = findIn(chat, query);
      return where === null ? [] : [{ chat, where }];
    });
    byId('history-list').replaceChildren(...found.slice(0, MAX_SHOWN).map(({ chat, where }) => this.#row(chat, where)));
    byId('history-clear').hidden = !this.#chats.length;
    const words = found.length ? '' : t(this.#chats.length ? 'history.none_found' : 'history.empty');
    setText(byId('history-empty'), words);
  }

  /** @param {Chat} chat @param {string} where @returns {HTMLElement} */
  #row(chat, where) {
    const title = titleOf(chat) || t('history.untitled');
    const when = t('history.about', { when: dateText(chat.changed_ms), count: chat.rows.filter((row) => row.role !== 'note').length });
    const open = make('button', { type: 'button', class: 'history-open' },
      make('span', { class: 'history-title', text: title }), make('span', { class: 'faint', text: where || when }));
    if (chat.id === this.#current) open.setAttribute('aria-current', 'true');
    open.addEventListener('click', () => this.#emit('open', { chat }));
    const deed = (/** @type {string} */ key, /** @type {string} */ label, /** @type {() => void} */ act) => {
      const button = make('button', { type: 'button', class: 'quiet small', 'aria-label': t(label, { title }), text: t(key) });
      button.addEventListener('click', act);
      return button;
    };
    const deeds = make('div', { class: 'history-deeds' },
      deed('history.markdown', 'history.markdown.of', () => save(fileNameOf(chat, 'md'), 'text/markdown', markdownOf(chat, words(chat)))),
      deed('history.json', 'history.json.of', () => save(fileNameOf(chat, 'json'), 'application/json', jsonOf(chat))),
      deed('history.delete', 'history.delete.of', () => this.#delete(chat.id)));
    return make('li', { class: 'history-row' }, open, deeds);
  }

  /** @param {string} id */
  async #delete(id) {
    await this.#history.delete(id).catch(() => {});
    this.#emit('gone', { id });
    await this.refresh();
    byId('history-search').focus();
  }

  async #clear() {
    if (!window.confirm(t('history.clear_sure'))) return;
    await this.#history.clear().catch(() => {});
    this.#emit('gone', { id: '' });
    await this.refresh();
  }

  /** @param {string} type @param {any} [detail] */
  #emit(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {Chat} chat */
function words(chat) {
  const speakers = { user: t('speaker.user'), assistant: t('speaker.assistant'), note: t('speaker.note') };
  return { title: t('history.untitled'), when: dateText(chat.begun_ms), speakers, cut: t('history.cut') };
}

/** @param {string} name @param {string} type @param {string} text */
function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = make('a', { href: url, download: name });
  link.click();
  // The download has begun when the click is over.
  window.setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
