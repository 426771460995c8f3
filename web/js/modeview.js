/** The mode selector: one button per mode, and what the pressed one means. */

import { byId, setText } from './dom.js';
import { t } from './i18n.js';
import { CHOICES } from './mode.js';

/** @typedef {import('./mode.js').Choice} Choice */

export class ModeView {
  /** @type {Map<Choice, any>} */ #buttons = new Map();

  /** @param {(choice: Choice) => void} onChoice */
  constructor(onChoice) {
    for (const choice of CHOICES) {
      const button = byId(`mode-${choice.replace('_', '-')}`);
      button.addEventListener('click', () => onChoice(choice));
      this.#buttons.set(choice, button);
    }
  }

  /**
   * @param {import('./mode.js').Mode} mode
   * @param {boolean} hasPicture something is shown to the model
   */
  show(mode, hasPicture) {
    for (const [choice, button] of this.#buttons) {
      const isSupported = mode.supported.includes(choice);
      button.setAttribute('aria-pressed', String(choice === mode.now));
      button.setAttribute('aria-busy', String(choice === mode.asked));
      button.disabled = !isSupported;
      button.title = isSupported ? t(`meaning.${choice}`) : t('mode.lacking');
    }
    setText(byId('mode-meaning'), t(hasPicture && mode.now === 'full_duplex' ? 'meaning.omni' : `meaning.${mode.now}`));
    /** @type {HTMLElement} */ (document.querySelector('main')).dataset.mode = mode.now;
  }
}
