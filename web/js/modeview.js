/** The mode selector: one button per mode, and what the pressed one means. */

import { MODES } from '../lib/modes.js';
import { byId, setText } from './dom.js';

/** @typedef {import('./mode.js').ModeName} ModeName */

/** @type {Record<ModeName, string>} */
const MEANINGS = {
  full_duplex: 'The model decides when to speak.',
  half_duplex: 'Answers when you stop speaking.',
  turn_based: 'Answers what you send, spoken or written.',
};
const OMNI = 'Omni: sees, hears, decides when to speak.';
const NOT_HEARD = 'No microphone: answers what you write.';

export class ModeView {
  /** @type {Map<ModeName, any>} */ #buttons = new Map();

  /** @param {(mode: ModeName) => void} onChoice */
  constructor(onChoice) {
    for (const mode of MODES) {
      const button = byId(`mode-${mode.replace('_', '-')}`);
      button.addEventListener('click', () => onChoice(mode));
      this.#buttons.set(mode, button);
    }
  }

  /**
   * @param {import('./mode.js').Mode} mode
   * @param {{hasCamera: boolean, listenOnly: boolean}} now
   */
  show(mode, { hasCamera, listenOnly }) {
    for (const [name, button] of this.#buttons) {
      const isSupported = mode.supported.includes(name);
      button.setAttribute('aria-pressed', String(name === mode.now));
      button.setAttribute('aria-busy', String(name === mode.asked));
      button.disabled = !isSupported || (listenOnly && name !== 'turn_based');
      button.title = isSupported ? '' : 'This engine does not have this mode.';
    }
    const isOmni = hasCamera && mode.now === 'full_duplex';
    setText(byId('mode-meaning'), listenOnly ? NOT_HEARD : isOmni ? OMNI : MEANINGS[mode.now]);
  }
}
