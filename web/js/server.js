/** The server's HTTP interface as the pages need it. Every failure is a `Refusal` of a known kind. */

import { authHeaders } from './key.js';

const INFO_TIMEOUT_MS = 5000;
const CALL_TIMEOUT_MS = 20000;
/** As long as the server waits for the body, and a little. */
const ITEM_TIMEOUT_MS = 130_000;

/** @typedef {'key'|'busy'|'rejected'|'fault'|'away'} RefusalKind */

/**
 * @typedef {Object} Info
 * @property {string} name
 * @property {string} version
 * @property {boolean} auth_required
 * @property {RTCIceServer[]} ice_servers
 * @property {boolean} [ready] whether a call would be served
 * @property {import('./starting.js').Starting|null} [starting] null when an engine is ready
 * @property {{kind: string, label: string, description: string, languages: string[], modes?: string[], video: boolean}} engine
 */

export class Refusal extends Error {
  /**
   * @param {RefusalKind} kind
   * @param {string} message as the server gave it, or ''
   * @param {{status?: number, retryAfter_s?: number}} [more]
   */
  constructor(kind, message, more = {}) {
    super(message);
    this.name = 'Refusal';
    this.kind = kind;
    this.status = more.status ?? 0;
    this.retryAfter_s = more.retryAfter_s ?? 0;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} init
 * @param {number} timeout_ms
 * @returns {Promise<Response>} a response whose status is 2xx
 */
async function request(path, init, timeout_ms) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeout_ms);
  let response;
  try {
    response = await fetch(path, {
      ...init,
      headers: { ...authHeaders(), ...init.headers },
      cache: 'no-store',
      signal: abort.signal,
    });
  } catch {
    throw new Refusal('away', abort.signal.aborted ? 'The server did not answer in time.' : '');
  } finally {
    clearTimeout(timer);
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

/** @param {Response} response */
async function refusalOf(response) {
  const { status } = response;
  let message = '';
  try {
    const body = await response.json();
    message = String(body?.error?.message ?? body?.message ?? '');
  } catch {
    // A proxy's HTML page or an empty body says no more than the status.
  }
  const retryAfter_s = secondsOf(response.headers.get('Retry-After'));
  return new Refusal(kindOf(status), message, { status, retryAfter_s });
}

/**
 * @param {number} status
 * @returns {RefusalKind}
 */
function kindOf(status) {
  if (status === 401 || status === 403) return 'key';
  if (status === 503 || status === 429) return 'busy';
  // Gateways answer these for a server that is down.
  if (status === 502 || status === 504) return 'away';
  return status >= 500 ? 'fault' : 'rejected';
}

/** @param {string|null} header seconds or an HTTP date */
function secondsOf(header) {
  if (!header) return 0;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, Math.ceil(seconds));
  const until_ms = Date.parse(header) - Date.now();
  return Number.isFinite(until_ms) ? Math.max(0, Math.ceil(until_ms / 1000)) : 0;
}

/** @returns {Promise<Info>} */
export async function getInfo() {
  return readJson(await request('/api/info', {}, INFO_TIMEOUT_MS));
}

/** @returns {Promise<any>} */
export async function getStats() {
  return readJson(await request('/api/stats', {}, INFO_TIMEOUT_MS));
}

/** @param {Response} response */
async function readJson(response) {
  try {
    return await response.json();
  } catch {
    throw new Refusal('fault', 'The answer was not JSON.', { status: response.status });
  }
}

/**
 * @param {string} sdp the offer
 * @param {Record<string, any>} session session settings
 * @returns {Promise<{sdp: string, path: string}>} the answer, and the call's own path ('' if none was given)
 */
export async function postOffer(sdp, session) {
  const form = new FormData();
  form.set('sdp', sdp);
  form.set('session', JSON.stringify(session));
  const response = await request('/v1/realtime/calls', { method: 'POST', body: form }, CALL_TIMEOUT_MS);
  const place = response.headers.get('Location');
  // Only the path: behind a TLS proxy the server may name a scheme or host the browser cannot use.
  const path = place ? new URL(place, location.href).pathname : '';
  try {
    return { sdp: await response.text(), path };
  } catch {
    throw new Refusal('away', '');
  }
}

/**
 * Puts an item into a call's conversation. Over HTTP, because a file does not fit a message of the data channel.
 * @param {string} path the call's path
 * @param {Record<string, any>} item
 * @param {(fraction: number) => void} onProgress of the body
 * @returns {Promise<void>}
 */
export function postItem(path, item, onProgress) {
  // fetch() tells nothing of how far a body is.
  const request = new XMLHttpRequest();
  request.open('POST', `${path}/items`);
  request.timeout = ITEM_TIMEOUT_MS;
  for (const [name, value] of Object.entries({ ...authHeaders(), 'Content-Type': 'application/json' })) {
    request.setRequestHeader(name, value);
  }
  request.upload.addEventListener('progress', ({ loaded, total }) => onProgress(total ? loaded / total : 0));
  return new Promise((resolve, reject) => {
    request.addEventListener('error', () => reject(new Refusal('away', '')));
    request.addEventListener('timeout', () => reject(new Refusal('away', 'The server did not answer in time.')));
    request.addEventListener('load', async () => {
      const { status } = request;
      if (status >= 200 && status < 300) resolve();
      else reject(await refusalOf(new Response(request.responseText, { status: status < 200 ? 500 : status })));
    });
    request.send(JSON.stringify(item));
  });
}

/**
 * Ends a call on the server; also works while the page is being closed. Never throws: the server notices a
 * vanished peer by itself, only later.
 * @param {string} path the call's path
 */
export function postHangup(path) {
  const url = `${path}/hangup`;
  try {
    fetch(url, { method: 'POST', keepalive: true, headers: authHeaders() }).catch(() => {});
  } catch {
    navigator.sendBeacon?.(url);
  }
}

/**
 * What became of a call that the server does not have any more. Null while it has it, also when the server
 * cannot be asked: the network may be what is gone, and that may come back.
 * @param {string} path the call's path
 * @returns {Promise<{reason: string, message: string}|null>} an empty reason: the server knows none
 */
export async function callEnding(path) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), INFO_TIMEOUT_MS);
  try {
    const answer = await fetch(path, { headers: authHeaders(), cache: 'no-store', signal: abort.signal });
    if (answer.status === 404) return { reason: '', message: '' };
    if (answer.status !== 410) return null;
    const { error } = await answer.json();
    return { reason: String(error?.code ?? ''), message: String(error?.message ?? '') };
  } catch {
    return null;
  } finally {
    clearTimeout(timer);
  }
}
