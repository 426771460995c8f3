/** Single-key shortcuts. They can be switched off, for people whose speech input or switches send stray letters. */

import { memory } from './dom.js';

const TYPING = 'input, textarea, select, [contenteditable="true"]';
const ACTIVATING = 'button, a, summary, [role="button"]';

/**
 * @param {Object} actions
 * @param {() => boolean} actions.call returns false when there was nothing to do
 * @param {() => void} actions.hangUp
 * @param {() => void} actions.mute
 * @param {() => void} actions.camera
 * @param {() => void} actions.flip
 * @param {() => void} actions.interrupt
 * @param {() => void} actions.write
 * @param {HTMLInputElement} toggle
 */
export function listenToKeys(actions, toggle) {
  toggle.checked = memory.read('shortcuts') !== 'off';
  toggle.addEventListener('change', () => memory.write('shortcuts', toggle.checked ? 'on' : 'off'));

  /** @type {Record<string, () => void>} */
  const letters = {
    m: actions.mute,
    v: actions.camera,
    f: actions.flip,
    i: actions.interrupt,
    t: actions.write,
  };

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
    const target = event.target instanceof Element ? event.target : document.body;
    if (target.matches(TYPING)) {
      // A first Escape leaves the text box, so that a second one can hang up.
      if (event.key === 'Escape' && target instanceof HTMLElement) target.blur();
      return;
    }
    if (!toggle.checked) return;
    if (event.key === 'Escape') {
      actions.hangUp();
    } else if (event.key === ' ' || event.key === 'Enter') {
      if (!target.matches(ACTIVATING) && actions.call()) event.preventDefault();
    } else if (letters[event.key.toLowerCase()]) {
      // Otherwise `t` would also be typed into the box it moves to.
      event.preventDefault();
      letters[event.key.toLowerCase()]();
    }
  });
}
