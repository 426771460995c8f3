/** Panels over the conversation, of which one is open at a time: each is opened by the button that names it. */

const OPENERS = '[aria-controls][aria-expanded]';

export class Panels {
  /** @type {HTMLElement|null} */ #open = null;
  /** @type {HTMLElement|null} */ #opener = null;

  /** @param {HTMLElement} covered what lies under them, and cannot be reached meanwhile */
  constructor(covered) {
    this.covered = covered;
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(OPENERS))) {
      button.addEventListener('click', () => this.toggle(button));
    }
    for (const button of document.querySelectorAll('[data-close]')) button.addEventListener('click', () => this.close());
  }

  get isOpen() {
    return this.#open !== null;
  }

  /** @param {HTMLElement} button */
  toggle(button) {
    const panel = document.getElementById(button.getAttribute('aria-controls') ?? '');
    const isClosing = panel === this.#open;
    this.close();
    if (isClosing || !panel) return;
    this.#open = panel;
    this.#opener = button;
    panel.hidden = false;
    this.covered.inert = true;
    button.setAttribute('aria-expanded', 'true');
    panel.dispatchEvent(new Event('open'));
    panel.focus({ preventScroll: true });
  }

  close() {
    if (!this.#open) return;
    this.#open.hidden = true;
    this.covered.inert = false;
    this.#opener?.setAttribute('aria-expanded', 'false');
    this.#opener?.focus({ preventScroll: true });
    this.#open = this.#opener = null;
  }
}
