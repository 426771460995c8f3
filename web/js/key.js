/** The access key: kept for this browser tab only, never left in the address bar. */

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

export function forgetKey() {
  unstored = '';
  try {
    sessionStorage.removeItem(SLOT);
  } catch {
    // Nothing was stored.
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

/** @returns {Record<string, string>} */
export function authHeaders() {
  const key = readKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}
