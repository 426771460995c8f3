/** The server's HTTP interface as callers need it. Every failure is a `Refusal` of a known kind. */

const INFO_TIMEOUT_MS = 5000;
const CALL_TIMEOUT_MS = 20000;
/** A client that comes back tries again rather than wait. */
const RESUME_TIMEOUT_MS = 4000;
const RESTART_TIMEOUT_MS = 2500;
/** As long as the server waits for the body, and a little. */
const ITEM_TIMEOUT_MS = 130_000;
const TOO_LATE = 'The server did not answer in time.';

/** @typedef {'key'|'busy'|'rejected'|'fault'|'away'} RefusalKind */

/**
 * @typedef {Object} Starting
 * @property {string} doing
 * @property {number|null} percent of a download
 * @property {number} step_s how long it has been doing this
 * @property {number} since_s how long it has been starting
 */

/**
 * @typedef {Object} Info
 * @property {string} name
 * @property {string} version
 * @property {boolean} auth_required
 * @property {RTCIceServer[]} ice_servers
 * @property {boolean} [recorded] whether the server keeps what is said in calls
 * @property {boolean} [recorded_pictures] and now and then a picture of the camera or of what is shared
 * @property {boolean} [ready] whether a call would be served
 * @property {Starting|null} [starting] null when an engine is ready
 * @property {{kind: string, label: string, description: string, languages: string[], modes?: string[], voices?: string[], honours?: string[], speech?: ''|'basic'|'neural', video: boolean}} engine
 */

/** For items and events. @param {'item'|'event'} kind @returns {string} `crypto.randomUUID` is missing on plain-HTTP pages */
export function newId(kind) {
  const values = crypto.getRandomValues(new Uint8Array(12));
  return `${kind}_${Array.from(values, (value) => value.toString(16).padStart(2, '0')).join('')}`;
}

export class Refusal extends Error {
  /**
   * @param {RefusalKind} kind
   * @param {string} message as the server gave it, or ''
   * @param {{status?: number, retryAfter_s?: number, code?: string}} [more]
   */
  constructor(kind, message, more = {}) {
    super(message);
    this.name = 'Refusal';
    this.kind = kind;
    this.status = more.status ?? 0;
    this.retryAfter_s = more.retryAfter_s ?? 0;
    this.code = more.code ?? '';
  }
}

export class Server {
  #key;

  /**
   * @param {Object} [where]
   * @param {string} [where.url] of the server, with the prefix under which a proxy shows it; the page's own host otherwise
   * @param {string|(() => string)} [where.key] an access key or an ephemeral one; a function is asked each time
   */
  constructor({ url = globalThis.location?.origin ?? '', key = '' } = {}) {
    this.url = url.replace(/\/+$/, '');
    this.#key = key;
  }

  /** @returns {Record<string, string>} */
  get #authorization() {
    const key = typeof this.#key === 'function' ? this.#key() : this.#key;
    return key ? { Authorization: `Bearer ${key}` } : {};
  }

  /** @returns {Promise<Info>} */
  async info() {
    return readJson(await this.#request('/api/info', {}, INFO_TIMEOUT_MS));
  }

  /** @returns {Promise<any>} for those who run the server */
  async stats() {
    return readJson(await this.#request('/api/stats', {}, INFO_TIMEOUT_MS));
  }

  /** @returns {Promise<any[]>} the presets that the server offers */
  async presets() {
    return (await readJson(await this.#request('/api/presets', {}, INFO_TIMEOUT_MS))).presets ?? [];
  }

  /** @returns {Promise<{voices: any[], upload: any}>} the voices that sessions may name, and what may be uploaded */
  async voices() {
    return readJson(await this.#request('/api/voices', {}, INFO_TIMEOUT_MS));
  }

  /**
   * @param {Blob} file a recording of the voice @param {{name: string, language?: string}} about
   * @returns {Promise<any>} the voice
   */
  async addVoice(file, { name, language = '' }) {
    const form = new FormData();
    form.set('name', name);
    form.set('language', language);
    form.set('file', file, 'voice');
    return readJson(await this.#request('/api/voices', { method: 'POST', body: form }, ITEM_TIMEOUT_MS));
  }

  /** @param {string} id @param {{name?: string, language?: string}} change @returns {Promise<any>} the voice */
  async changeVoice(id, change) {
    const init = { method: 'PATCH', body: JSON.stringify(change), headers: { 'Content-Type': 'application/json' } };
    return readJson(await this.#request(`/api/voices/${encodeURIComponent(id)}`, init, INFO_TIMEOUT_MS));
  }

  /** @param {string} id */
  async deleteVoice(id) {
    await this.#request(`/api/voices/${encodeURIComponent(id)}`, { method: 'DELETE' }, INFO_TIMEOUT_MS);
  }

  /** @returns {Promise<{enabled: boolean, recordings: any[]}>} the calls that were recorded, newest first */
  async recordings() {
    return readJson(await this.#request('/api/recordings', {}, INFO_TIMEOUT_MS));
  }

  /** @param {string} callId of a recorded call that is over */
  async deleteRecording(callId) {
    await this.#request(`/api/recordings/${encodeURIComponent(callId)}`, { method: 'DELETE' }, INFO_TIMEOUT_MS);
  }

  /** @param {string} path of a file that the server named @returns {Promise<Blob>} */
  async file(path) {
    const response = await this.#request(path, {}, ITEM_TIMEOUT_MS);
    return response.blob();
  }

  /**
   * @param {string} sdp the offer
   * @param {Record<string, any>} session session settings
   * @param {string} [token] of a session that has lost its connection: it goes on over this one
   * @returns {Promise<{sdp: string, id: string, token: string}>} the answer, the call's id, and what resumes its
   *   session ('' if the server gave none)
   */
  async offer(sdp, session, token = '') {
    const form = new FormData();
    form.set('sdp', sdp);
    form.set('session', JSON.stringify(session));
    const headers = { 'Omnicall-Resume': token || 'new' };
    const limit_ms = token ? RESUME_TIMEOUT_MS : CALL_TIMEOUT_MS;
    const response = await this.#request('/v1/realtime/calls', { method: 'POST', body: form, headers }, limit_ms);
    // Only the id: behind a proxy the server may name a scheme, host or path that the browser cannot use.
    const place = response.headers.get('Location') ?? '';
    try {
      const given = response.headers.get('Omnicall-Resume') ?? '';
      return { sdp: await response.text(), id: place.split('/').pop() ?? '', token: given };
    } catch {
      throw new Refusal('away', '');
    }
  }

  /**
   * Begins a new ICE session of a call (RFC 8840): its media may have to take another way now.
   * @param {string} callId @param {string} fragment our side @returns {Promise<string>} the server's
   */
  async restartIce(callId, fragment) {
    const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': '*' };
    const path = `/v1/realtime/calls/${encodeURIComponent(callId)}`;
    const response = await this.#request(path, { method: 'PATCH', body: fragment, headers }, RESTART_TIMEOUT_MS);
    return response.text();
  }

  /**
   * Keeps what a caller thinks of an answer.
   * @param {string} callId @param {{item_id: string, rating: 'up'|'down'|null, comment: string}} rating
   */
  async rate(callId, rating) {
    const init = { method: 'POST', body: JSON.stringify(rating), headers: { 'Content-Type': 'application/json' } };
    await this.#request(`/v1/realtime/calls/${encodeURIComponent(callId)}/feedback`, init, INFO_TIMEOUT_MS);
  }

  /**
   * Puts an item into a call's conversation. Over HTTP, because a file does not fit a message of the data channel.
   * @param {string} callId
   * @param {Record<string, any>} item
   * @param {(fraction: number) => void} onProgress of the body
   * @returns {Promise<void>}
   */
  addItem(callId, item, onProgress) {
    // fetch() tells nothing of how far a body is.
    const request = new XMLHttpRequest();
    request.open('POST', `${this.#call(callId)}/items`);
    request.timeout = ITEM_TIMEOUT_MS;
    for (const [name, value] of Object.entries({ ...this.#authorization, 'Content-Type': 'application/json' })) {
      request.setRequestHeader(name, value);
    }
    request.upload.addEventListener('progress', ({ loaded, total }) => onProgress(total ? loaded / total : 0));
    return new Promise((resolve, reject) => {
      request.addEventListener('error', () => reject(new Refusal('away', '')));
      request.addEventListener('timeout', () => reject(new Refusal('away', TOO_LATE)));
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
   * @param {string} callId
   */
  async hangUp(callId) {
    const url = `${this.#call(callId)}/hangup`;
    try {
      const asked = fetch(url, { method: 'POST', keepalive: true, headers: this.#authorization });
      await asked.catch(() => {});
    } catch {
      navigator.sendBeacon?.(url);
    }
  }

  /**
   * What became of a call that the server does not have any more. Null while it has it, undefined when the server
   * cannot be asked: the network may be what is gone, and that may come back.
   * @param {string} callId @param {number} [timeout_ms]
   * @returns {Promise<{reason: string, message: string}|null|undefined>} an empty reason: the server knows none, or has
   *   the session and not its connection
   */
  async endingOf(callId, timeout_ms = INFO_TIMEOUT_MS) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeout_ms);
    try {
      const headers = this.#authorization;
      const answer = await fetch(this.#call(callId), { headers, cache: 'no-store', signal: abort.signal });
      if (answer.status === 404) return { reason: '', message: '' };
      if (answer.status === 200 && (await answer.json())?.state === 'lost') return { reason: '', message: '' };
      if (answer.status !== 410) return null;
      const { error } = await answer.json();
      return { reason: String(error?.code ?? ''), message: String(error?.message ?? '') };
    } catch (error) {
      // Whoever answers what is no JSON is there.
      return error instanceof SyntaxError ? null : undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  /** @param {string} callId */
  #call(callId) {
    return `${this.url}/v1/realtime/calls/${encodeURIComponent(callId)}`;
  }

  /**
   * @param {string} path
   * @param {RequestInit} init
   * @param {number} timeout_ms
   * @returns {Promise<Response>} a response whose status is 2xx
   */
  async #request(path, init, timeout_ms) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeout_ms);
    const headers = { ...this.#authorization, ...init.headers };
    let response;
    try {
      response = await fetch(this.url + path, { ...init, headers, cache: 'no-store', signal: abort.signal });
    } catch {
      throw new Refusal('away', abort.signal.aborted ? TOO_LATE : '');
    } finally {
      clearTimeout(timer);
    }
    if (!response.ok) throw await refusalOf(response);
    return response;
  }
}

/** @param {Response} response */
async function refusalOf(response) {
  const { status } = response;
  let message = '';
  let code = '';
  try {
    const body = await response.json();
    message = String(body?.error?.message ?? body?.message ?? '');
    code = String(body?.error?.code ?? '');
  } catch {
    // A proxy's HTML page or an empty body says no more than the status.
  }
  const retryAfter_s = secondsOf(response.headers.get('Retry-After'));
  return new Refusal(kindOf(status), message, { status, retryAfter_s, code });
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

/** @param {Response} response */
async function readJson(response) {
  try {
    return await response.json();
  } catch {
    throw new Refusal('fault', 'The answer was not JSON.', { status: response.status });
  }
}
