/** The panel that shows one problem at a time, in the language of the page. */

import { make, setText } from './dom.js';
import { numberText, t, tongue } from './i18n.js';

/** @typedef {import('./problems.js').Problem} Problem */

export class Notice extends EventTarget {
  /** @type {Problem|null} */ #shown = null;
  /** @type {(() => Problem)|null} */ #tell = null;
  #timer = 0;
  #until_ms = 0;

  /** @param {HTMLElement} panel emits `action` {id} here when one is pressed */
  constructor(panel) {
    super();
    this.panel = panel;
    tongue.addEventListener('change', () => this.#tell && this.#build(this.#tell()));
  }

  /** @returns {Problem|null} */
  get shown() {
    return this.#shown;
  }

  /** @param {() => Problem} tell says it in the language of the moment */
  show(tell) {
    this.hide();
    this.#tell = tell;
    const problem = tell();
    this.#until_ms = performance.now() + (problem.retryAfter_s ?? 0) * 1000;
    this.#build(problem);
  }

  hide() {
    clearInterval(this.#timer);
    this.#shown = this.#tell = null;
    this.panel.hidden = true;
    this.panel.replaceChildren();
  }

  /** @param {Problem} problem */
  #build(problem) {
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
    if (problem.retryAfter_s) this.#countDown(wait);
  }

  /** @param {{id: string, label: string}} action @param {boolean} isFirst */
  #button({ id, label }, isFirst) {
    const button = make('button', { type: 'button', class: isFirst ? 'primary' : 'quiet', 'data-action': id, text: label });
    button.addEventListener('click', () => this.dispatchEvent(new CustomEvent('action', { detail: { id } })));
    return button;
  }

  /** @param {Element} place */
  #countDown(place) {
    clearInterval(this.#timer);
    const tell = () => {
      const left_s = Math.ceil((this.#until_ms - performance.now()) / 1000);
      setText(place, left_s > 0 ? t('busy.wait', { seconds: numberText(left_s) }) : t('busy.now'));
      if (left_s <= 0) clearInterval(this.#timer);
    };
    // Told once by the panel, not each second.
    place.setAttribute('aria-live', 'off');
    tell();
    this.#timer = window.setInterval(tell, 500);
  }
}
