/** The panel that shows one problem at a time. */

import { make, setText } from './dom.js';

/** @typedef {import('./problems.js').Problem} Problem */

export class Notice extends EventTarget {
  /** @type {Problem|null} */ #shown = null;
  #timer = 0;

  /** @param {HTMLElement} panel emits `action` {id} here when one is pressed */
  constructor(panel) {
    super();
    this.panel = panel;
  }

  /** @returns {Problem|null} */
  get shown() {
    return this.#shown;
  }

  /** @param {Problem} problem */
  show(problem) {
    this.hide();
    this.#shown = problem;
    const { panel } = this;
    panel.dataset.tone = problem.tone;
    panel.dataset.kind = problem.kind;
    const buttons = problem.actions.map((action, index) => this.#button(action, index === 0));
    const wait = make('span', { class: 'countdown' });
    panel.replaceChildren(
      make('h2', { text: problem.title }),
      make('p', { text: problem.text }),
      ...(problem.steps ? [make('ol', {}, ...problem.steps.map((text) => make('li', { text })))] : []),
      make('div', { class: 'actions' }, ...buttons, wait),
    );
    panel.hidden = false;
    panel.scrollIntoView?.({ block: 'nearest' });
    if (problem.retryAfter_s) this.#countDown(wait, problem.retryAfter_s);
  }

  hide() {
    clearInterval(this.#timer);
    this.#shown = null;
    this.panel.hidden = true;
    this.panel.replaceChildren();
  }

  /** @param {{id: string, label: string}} action @param {boolean} isFirst */
  #button({ id, label }, isFirst) {
    const button = make('button', { type: 'button', class: isFirst ? 'primary' : 'quiet', 'data-action': id, text: label });
    button.addEventListener('click', () => this.dispatchEvent(new CustomEvent('action', { detail: { id } })));
    return button;
  }

  /** @param {Element} place @param {number} seconds */
  #countDown(place, seconds) {
    const until_ms = performance.now() + seconds * 1000;
    const tell = () => {
      const left_s = Math.ceil((until_ms - performance.now()) / 1000);
      setText(place, left_s > 0 ? `The server suggests waiting ${left_s} s` : 'You can try now');
      if (left_s <= 0) clearInterval(this.#timer);
    };
    // Told once by the panel, not each second.
    place.setAttribute('aria-live', 'off');
    tell();
    this.#timer = window.setInterval(tell, 500);
  }
}
