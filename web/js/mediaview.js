/** Files of a message as people look at them: pictures as thumbnails, players for sound and video. */

import { make } from './dom.js';
import { t } from './i18n.js';
import { soundButton } from './soundbutton.js';

/** @param {{name: string, kind: string}} medium @param {Blob|undefined} blob @returns {HTMLElement} its name where there is no file any more */
export function mediaView({ name, kind }, blob) {
  if (!blob) return make('span', { class: 'file-name', text: `[${name}]` });
  if (kind === 'audio') return soundButton(blob, { label: 'sound.play_file' });
  const url = URL.createObjectURL(blob);
  if (kind === 'video') {
    return make('video', { class: 'thumb', src: url, controls: true, playsinline: true, preload: 'metadata', 'aria-label': name });
  }
  const picture = make('img', { class: 'thumb', src: url, alt: name });
  const button = make('button', { type: 'button', class: 'thumb-button', 'aria-label': t('media.enlarge', { name }) }, picture);
  button.addEventListener('click', () => enlarge(url, name));
  return button;
}

/** @param {HTMLElement} view that goes: what it holds in memory goes with it */
export function forgetMedia(view) {
  for (const one of view.querySelectorAll('img, video')) {
    const { src } = /** @type {HTMLImageElement|HTMLVideoElement} */ (one);
    if (src.startsWith('blob:')) URL.revokeObjectURL(src);
  }
}

/** @param {string} url @param {string} name */
function enlarge(url, name) {
  const close = make('button', { type: 'button', class: 'tool', 'aria-label': t('panel.close'), text: '×' });
  const dialog = make('dialog', { class: 'picture-dialog', 'aria-label': name }, close, make('img', { src: url, alt: name }));
  dialog.addEventListener('click', () => dialog.close());
  // The page's keys would end the call.
  dialog.addEventListener('keydown', (/** @type {Event} */ event) => event.stopPropagation());
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
