/**
 * The server that the pages came from, and the access key: kept for this browser tab only, never left in the address
 * bar.
 */

import { Server } from '../lib/server.js';
import { byId, setText } from './dom.js';
import { t, tongue } from './i18n.js';

const SLOT = 'omnicall.key';

/** Used where the browser forbids storage (blocked cookies, some private modes). */
let unstored = '';

/** @returns {string} the key, or '' */
export function readKey() {
  try {
    return sessionStorage.getItem(SLOT) ?? unstored;
  } catch {
    return unstored;
  }
}

/** @param {string} key */
export function saveKey(key) {
  unstored = key.trim();
  try {
    sessionStorage.setItem(SLOT, unstored);
  } catch {
    // `unstored` holds it until the page is closed.
  }
}

/** Moves `?key=...` out of the address, where history, bookmarks and screen shares would show it. */
export function takeKeyFromAddress() {
  const url = new URL(location.href);
  const key = url.searchParams.get('key');
  if (key === null) return;
  if (key.trim()) saveKey(key);
  url.searchParams.delete('key');
  history.replaceState(history.state, '', url);
}

/** What the address asks for, as the demo's addresses do. @returns {{mode: string, camera: boolean}} */
export function askedInAddress() {
  const asked = new URL(location.href).searchParams;
  return { mode: asked.get('mode') ?? '', camera: asked.get('camera') === 'on' };
}

export const server = new Server({ url: location.origin, key: readKey });

/** The form that asks for the key. */
export class KeyForm {
  #said = 'key.wanted';

  /** @param {() => void} onKey after it was stored */
  constructor(onKey) {
    byId('key-form').addEventListener('submit', (/** @type {Event} */ event) => {
      event.preventDefault();
      saveKey(byId('key').value);
      byId('key').value = '';
      byId('key-form').hidden = true;
      onKey();
    });
    tongue.addEventListener('change', () => this.#show());
  }

  get isOpen() {
    return !byId('key-form').hidden;
  }

  /** @param {string} [wanted] the words for it where none was refused */
  ask(wanted = 'key.wanted') {
    this.#said = readKey() ? 'key.refused' : wanted;
    this.#show();
    byId('key-form').hidden = false;
    byId('key').focus();
  }

  #show() {
    setText(byId('key-text'), t(this.#said));
  }
}
