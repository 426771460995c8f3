/**
 * Keeps the pages and what they are made of, so that an installed omnicall opens at once and says so when its server is
 * away. The server is asked first each time, and nothing that it answers to calls is ever kept.
 */

const SHELL = 'omnicall-shell';
const PAGES = ['/', '/call', '/faq'];

/** @param {URL} url */
function isShell(url) {
  return url.origin === location.origin && (PAGES.includes(url.pathname) || url.pathname.startsWith('/static/'));
}

self.addEventListener('install', () => self.skipWaiting());

self.addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== 'GET' || !isShell(url)) return;
  // An address may carry a key, which is kept nowhere.
  event.respondWith(answer(event, url.origin + url.pathname));
});

/** @param {any} event @param {string} name under which it is kept */
async function answer(event, name) {
  try {
    const fresh = await fetch(event.request);
    if (fresh.ok) event.waitUntil(keep(name, fresh.clone()));
    return fresh;
  } catch (error) {
    const kept = await (await caches.open(SHELL)).match(name);
    if (kept) return kept;
    throw error;
  }
}

/** @param {string} name @param {Response} response */
async function keep(name, response) {
  await (await caches.open(SHELL)).put(name, response);
}
