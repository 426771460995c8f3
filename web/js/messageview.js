/**
 * One message of the conversation. What grows is added as text, so that a screen reader says only that; a finished
 * one offers what can be done with it.
 */

import { make, setText } from './dom.js';
import { numberText, t } from './i18n.js';
import { MarkdownBody, splitThinking } from './markdown.js';
import { forgetMedia, mediaView } from './mediaview.js';
import { soundButton } from './soundbutton.js';

/** @typedef {import('../lib/captions.js').Caption} Caption */

/**
 * @typedef {Object} Deeds what the page does with messages
 * @property {(caption: Caption) => void} edit
 * @property {(caption: Caption) => void} again
 * @property {(caption: Caption) => import('./chat.js').Vote|null} voteOf
 * @property {(caption: Caption, vote: import('./chat.js').Vote|null) => void} vote
 * @property {(caption: Caption) => Map<number, Blob>} filesOf by their place in the message; -1 is its sound
 */

/** @param {string} name @param {string} icon @param {() => void} act @returns {HTMLButtonElement} */
function toolButton(name, icon, act) {
  const NS = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(NS, 'svg');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(NS, 'use');
  use.setAttribute('href', `/static/icons.svg#${icon}`);
  svg.append(use);
  const button = make('button', { type: 'button', class: 'message-tool', 'data-tool': name, 'aria-label': t(`message.${name}`), title: t(`message.${name}`) }, svg);
  button.addEventListener('click', act);
  return button;
}

export class MessageView {
  #words;
  #body;
  #thought = make('div', { class: 'thought' });
  #thinking;
  #who = make('span', { class: 'who' });
  #mark = make('span', { class: 'mark' });
  #media = make('div', { class: 'media' });
  // Buttons are no news: only what is said is read out.
  #tools = make('div', { class: 'message-tools', role: 'group', 'aria-live': 'off' });
  #shownMedia = '';

  /** @param {Caption} caption @param {Deeds} deeds */
  constructor(caption, deeds) {
    this.caption = caption;
    this.deeds = deeds;
    this.#words = make('div', { class: 'words' });
    this.#body = caption.role === 'assistant' ? new MarkdownBody(this.#words) : null;
    this.#thinking = make('details', { class: 'thinking', hidden: true }, make('summary', {}), this.#thought);
    const tag = caption.role === 'note' ? 'p' : 'div';
    const body = make(tag, { class: 'body' }, this.#thinking, this.#media, this.#words, ' ', this.#mark);
    this.node = make('div', { class: 'caption', 'data-role': caption.role }, this.#who, body, this.#tools);
    if (caption.typed) this.node.dataset.typed = '';
    this.#showText();
    this.dress();
  }

  /** @param {string} [appended] the new words, if the old stayed */
  grow(appended) {
    if (this.#body || appended === undefined) this.#showText();
    else if (appended) this.#words.append(appended);
    this.dress();
  }

  #showText() {
    const { text } = this.caption;
    if (!this.#body) {
      setText(this.#words, text);
      return;
    }
    const { thinking, answer, isThinking } = splitThinking(text);
    this.#thinking.hidden = !thinking;
    setText(this.#thought, thinking);
    setText(/** @type {Element} */ (this.#thinking.firstElementChild), t(isThinking ? 'message.thinking' : 'message.thought'));
    this.#body.show(answer);
  }

  /** All but the words, also in another language. */
  dress() {
    const { role, status, text, media = [] } = this.caption;
    this.node.dataset.status = status;
    this.node.dataset.empty = String(!text && !media.length);
    setText(this.#who, t(`speaker.${role}`));
    setText(this.#mark, markOf(this.caption));
    this.#showFiles();
    if (role !== 'note' && status !== 'growing') this.#offer();
  }

  /** Files and sounds may come after the words. */
  #showFiles() {
    const { media = [] } = this.caption;
    const files = this.deeds.filesOf(this.caption);
    const key = `${media.map(({ name }) => name)} ${[...files.keys()]}`;
    if (key === this.#shownMedia) return;
    this.#shownMedia = key;
    forgetMedia(this.#media);
    this.#media.replaceChildren(...media.map((one, index) => mediaView(one, files.get(index))));
    // What is not written down is heard instead.
    const sound = files.get(-1);
    if (sound && this.caption.role === 'user') this.#media.append(this.#soundOf(sound, 'sound.play_said'));
  }

  /** @param {Blob} sound @param {string} label */
  #soundOf(sound, label) {
    // 16-bit samples behind a header of 44 bytes; the rate stands in the type (see sounds.js).
    const rate = Number(/rate=(\d+)/.exec(sound.type)?.[1]) || 0;
    return soundButton(sound, { label, length_s: rate ? (sound.size - 44) / 2 / rate : undefined });
  }

  #offer() {
    const { caption, deeds } = this;
    const tools = [];
    const sound = deeds.filesOf(caption).get(-1);
    if (caption.role === 'assistant' && sound) tools.push(this.#soundOf(sound, 'sound.play_answer'));
    if (caption.text) tools.push(toolButton('copy', 'copy', () => this.#copy()));
    if (caption.role === 'user' && caption.typed && !caption.media?.length) tools.push(toolButton('edit', 'edit', () => deeds.edit(caption)));
    if (caption.role === 'assistant' && caption.text) {
      tools.push(toolButton('again', 'again', () => deeds.again(caption)), ...this.#votes());
    }
    const focused = /** @type {HTMLElement|null} */ (document.activeElement)?.dataset.tool;
    const hadFocus = focused && this.#tools.contains(document.activeElement);
    this.#tools.replaceChildren(...tools);
    if (hadFocus) this.#tools.querySelector(`[data-tool="${focused}"]`)?.focus();
  }

  #votes() {
    const { caption, deeds } = this;
    const now = deeds.voteOf(caption);
    const buttons = /** @type {const} */ (['up', 'down']).map((is) => {
      const button = toolButton(is, is, () => {
        deeds.vote(caption, now?.is === is ? null : { is });
        this.dress();
      });
      button.setAttribute('aria-pressed', String(now?.is === is));
      return button;
    });
    return now ? [...buttons, this.#wordOf(now)] : buttons;
  }

  /** @param {import('./chat.js').Vote} vote */
  #wordOf(vote) {
    const box = make('input', { type: 'text', class: 'vote-word', maxlength: 500, value: vote.word ?? '', 'aria-label': t('message.word'), placeholder: t('message.word') });
    box.addEventListener('change', () => this.deeds.vote(this.caption, { is: vote.is, ...(box.value.trim() ? { word: box.value.trim() } : {}) }));
    return box;
  }

  async #copy() {
    const button = this.#tools.querySelector('[data-tool="copy"]');
    const { answer } = splitThinking(this.caption.text);
    const isCopied = await navigator.clipboard.writeText(answer).then(() => true, () => false);
    button?.setAttribute('title', t(isCopied ? 'talk.copied' : 'talk.not_copied'));
    if (button && isCopied) button.dataset.done = '';
    window.setTimeout(() => button && delete button.dataset.done, 1500);
  }

  forget() {
    forgetMedia(this.#media);
    this.node.remove();
  }
}

/** @param {Caption} caption @returns {string} what else there is to say of it */
export function markOf(caption) {
  if (caption.status === 'cut') {
    return caption.heard_ms ? t('mark.cut_after', { seconds: numberText(caption.heard_ms / 1000, 1) }) : t('mark.cut');
  }
  if (caption.status === 'unwritten') return t('mark.unwritten');
  if (caption.status === 'failed') return t(caption.text ? 'mark.unfinished' : 'mark.not_understood');
  return '';
}
