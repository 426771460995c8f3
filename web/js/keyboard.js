/**
 * What is pressed and held: single-key shortcuts, which can be switched off for people whose speech input or switches
 * send stray letters, and the button that is held to talk.
 */

import { memory } from './memory.js';
import { nudge } from './phone.js';

const TALK = ' ';
const HOLDING_KEYS = [' ', 'Enter'];
const TYPING = 'input, textarea, select, [contenteditable="true"]';
const ACTIVATING = 'button, a, summary, [role="button"]';

/**
 * @param {Object} actions
 * @param {() => boolean} actions.call returns false when there was nothing to do
 * @param {() => void} actions.hangUp
 * @param {() => boolean} actions.hold begins to talk; returns false when there is no need to push for it
 * @param {() => void} actions.release
 * @param {() => void} actions.mute
 * @param {() => void} actions.camera
 * @param {() => void} actions.flip
 * @param {() => void} actions.interrupt
 * @param {() => void} actions.hush
 * @param {() => void} actions.pause
 * @param {() => void} actions.write
 * @param {() => boolean} actions.leave closes what lies over the page; returns false when there was nothing
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
    h: actions.hush,
    p: actions.pause,
    t: actions.write,
  };

  let isHolding = false;

  document.addEventListener('keyup', (event) => {
    if (event.key !== TALK || !isHolding) return;
    isHolding = false;
    // Otherwise it would also press the button that has the focus.
    event.preventDefault();
    actions.release();
  });

  document.addEventListener('keydown', (event) => {
    if (event.key === TALK && event.repeat && isHolding) event.preventDefault();
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
    const target = event.target instanceof Element ? event.target : document.body;
    if (target.matches(TYPING)) {
      // A first Escape leaves the text box, so that a second one can hang up.
      if (event.key === 'Escape' && target instanceof HTMLElement) target.blur();
      return;
    }
    if (event.key === 'Escape' && actions.leave()) return;
    if (!toggle.checked) return;
    if (event.key === 'Escape') {
      actions.hangUp();
    } else if (event.key === TALK && actions.hold()) {
      // On any button: after a click one has the focus, and Enter presses it as well.
      isHolding = true;
      event.preventDefault();
    } else if (event.key === ' ' || event.key === 'Enter') {
      if (!target.matches(ACTIVATING) && actions.call()) event.preventDefault();
    } else if (letters[event.key.toLowerCase()]) {
      // Otherwise `t` would also be typed into the box it moves to.
      event.preventDefault();
      letters[event.key.toLowerCase()]();
    }
  });
}

/**
 * By pointer, finger or key, and pressed twice where nothing can be held.
 *
 * @param {HTMLButtonElement} button
 * @param {import('./conversation.js').Conversation} conversation
 */
export function bindTalkButton(button, conversation) {
  const hold = () => {
    nudge();
    conversation.hold();
  };
  const release = () => conversation.release();

  button.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    hold();
    // The release counts wherever the finger has moved to.
    button.setPointerCapture(event.pointerId);
  });
  for (const type of ['pointerup', 'pointercancel', 'lostpointercapture']) button.addEventListener(type, release);
  // A long touch would open a menu.
  button.addEventListener('contextmenu', (event) => event.preventDefault());

  button.addEventListener('keydown', (event) => {
    if (!HOLDING_KEYS.includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) hold();
  });
  button.addEventListener('keyup', (event) => {
    if (!HOLDING_KEYS.includes(event.key)) return;
    event.preventDefault();
    release();
  });

  // Screen readers, speech input and switches click without a press before it.
  button.addEventListener('click', (event) => {
    if (event.detail) return;
    if (conversation.pushing.isHeld) release();
    else hold();
  });

  // The key or the finger may be lifted where the page does not see it.
  window.addEventListener('blur', release);
  document.addEventListener('visibilitychange', () => document.hidden && release());
}
