/** A button that plays a sound of the conversation, with its length; one plays at a time. */

import { make, setText } from './dom.js';
import { numberText, t } from './i18n.js';

/** @type {HTMLAudioElement|null} */ let player = null;
/** @type {(() => void)|null} */ let onStop = null;

/** Whatever plays falls silent. */
export function stopSounds() {
  player?.pause();
  onStop?.();
  onStop = null;
}

/**
 * @param {Blob} blob
 * @param {{label: string, length_s?: number}} about `label`: a key of what the button plays
 * @returns {HTMLButtonElement}
 */
export function soundButton(blob, { label, length_s }) {
  const icon = /** @type {SVGElement} */ (document.createElementNS('http://www.w3.org/2000/svg', 'svg'));
  icon.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  icon.append(use);
  const time = make('span', { class: 'sound-time' });
  const button = make('button', { type: 'button', class: 'sound', 'data-testid': 'sound' }, icon, time);
  let url = '';
  const dress = (/** @type {boolean} */ isPlaying) => {
    use.setAttribute('href', `/static/icons.svg#${isPlaying ? 'pause' : 'play'}`);
    button.setAttribute('aria-label', t(isPlaying ? 'sound.pause' : label));
    button.title = button.getAttribute('aria-label');
    if (length_s) setText(time, t('sound.seconds', { seconds: numberText(length_s, length_s < 10 ? 1 : 0) }));
  };
  const rest = () => {
    dress(false);
    if (url) URL.revokeObjectURL(url);
    url = '';
  };
  button.addEventListener('click', () => {
    const isMine = Boolean(url);
    stopSounds();
    if (isMine) return;
    url = URL.createObjectURL(blob);
    player ??= new Audio();
    player.src = url;
    player.onended = player.onerror = stopSounds;
    onStop = rest;
    dress(true);
    player.play().catch(stopSounds);
  });
  dress(false);
  return button;
}
