/** The button that is held to talk: by pointer, finger or key, and pressed twice where nothing can be held. */

const HOLDING_KEYS = [' ', 'Enter'];

/**
 * @param {HTMLButtonElement} button
 * @param {import('./conversation.js').Conversation} conversation
 */
export function bindTalkButton(button, conversation) {
  const hold = () => conversation.hold();
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
