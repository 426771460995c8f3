/** How a conversation comes back after its connection was lost: a new ICE session, when to call again, what to tell. */

/** What is told anew at most, newest first: a model's memory is bounded, too. */
const MAX_ITEMS = 40;
const MAX_CHARS = 16_000;

/** @typedef {import('./captions.js').Caption} Caption */

/**
 * @typedef {Object} Patience
 * @property {number} [first_ms] wait before the second attempt; the first is made at once
 * @property {number} [most_ms] longest wait between two attempts
 * @property {number} [for_ms] after this long without success the call is over
 */

/** Waits that double, each spread over its upper half so that many clients do not come back together. */
export class Backoff {
  #attempt = 0;
  #since_ms = 0;
  #first_ms;
  #most_ms;
  #for_ms;
  #random;

  /** @param {Patience} [patience] @param {() => number} [random] 0 to 1 */
  constructor({ first_ms = 500, most_ms = 8_000, for_ms = 60_000 } = {}, random = Math.random) {
    this.#first_ms = first_ms;
    this.#most_ms = most_ms;
    this.#for_ms = for_ms;
    this.#random = random;
  }

  /** How many attempts were made since the last success. */
  get attempt() {
    return this.#attempt;
  }

  /** There is a connection again. */
  reset() {
    this.#attempt = 0;
  }

  /**
   * @param {number} now_ms
   * @param {number} [least_ms] as the server asked for
   * @returns {number|null} the wait before the next attempt, or null: give up
   */
  next(now_ms, least_ms = 0) {
    if (!this.#attempt) this.#since_ms = now_ms;
    const longest_ms = Math.min(this.#most_ms, this.#first_ms * 2 ** (this.#attempt - 1));
    const wait_ms = this.#attempt ? longest_ms * (0.5 + this.#random() / 2) : 0;
    const due_ms = Math.max(wait_ms, least_ms);
    if (now_ms + due_ms - this.#since_ms > this.#for_ms) return null;
    this.#attempt += 1;
    return due_ms;
  }
}

/** Calls again after a wait, or as soon as the browser says that the network is back. */
export class Comeback {
  #backoff;
  /** @type {ReturnType<typeof setTimeout>|undefined} */ #timer;
  #now = () => {};

  /** @param {Patience} patience */
  constructor(patience) {
    this.#backoff = new Backoff(patience);
  }

  get attempt() {
    return this.#backoff.attempt;
  }

  /** @param {() => void} dial @param {number} least_ms @returns {boolean} false: it has been tried for long enough */
  schedule(dial, least_ms) {
    const wait_ms = this.#backoff.next(performance.now(), least_ms);
    if (wait_ms === null) return false;
    this.#now = () => {
      this.cancel();
      dial();
    };
    this.#timer = setTimeout(this.#now, wait_ms);
    globalThis.addEventListener?.('online', this.#now);
    return true;
  }

  cancel() {
    clearTimeout(this.#timer);
    globalThis.removeEventListener?.('online', this.#now);
  }

  succeeded() {
    this.#backoff.reset();
  }
}

/**
 * What both sides said so far, as the events that tell it to a new session. Of files their names are told.
 * @param {readonly Caption[]} captions
 * @returns {Record<string, any>[]} oldest first
 */
export function retelling(captions) {
  /** @type {Record<string, any>[]} */ const events = [];
  let left = MAX_CHARS;
  for (const { id, role, media = [], text: words } of [...captions].reverse()) {
    const text = [...media.map(({ name }) => `[${name}]`), words].filter(Boolean).join(' ');
    if (role === 'note' || !text) continue;
    left -= text.length;
    if (left < 0 || events.length === MAX_ITEMS) break;
    const type = role === 'user' ? 'input_text' : 'output_text';
    // With the same id: the captions of it are there already.
    events.unshift({ type: 'conversation.item.create', item: { id, type: 'message', role, content: [{ type, text }] } });
  }
  return events;
}

// ---- descriptions of the same connection: a new ICE session as both sides write it (RFC 8840), another order of formats

const CREDENTIAL = /^a=ice-(ufrag|pwd):(.*)$/;
const CANDIDATE = /^a=(candidate:|end-of-candidates)/;

/** @param {string} sdp @returns {string[]} */
function linesOf(sdp) {
  return sdp.split(/\r?\n/).filter(Boolean);
}

/** @param {string[]} lines @returns {Record<string, string>} the first of each */
function credentialsOf(lines) {
  /** @type {Record<string, string>} */ const found = {};
  for (const line of lines) {
    const [, name, value] = CREDENTIAL.exec(line) ?? [];
    if (name) found[name] ??= value;
  }
  return found;
}

/** @param {string} sdp of an offer that restarts ICE @returns {string} what the server needs of it: it learns our addresses from the checks */
export function fragmentOf(sdp) {
  const lines = linesOf(sdp);
  const { ufrag, pwd } = credentialsOf(lines);
  const mid = lines.find((line) => line.startsWith('a=mid:')) ?? 'a=mid:0';
  const told = [`a=ice-ufrag:${ufrag}`, `a=ice-pwd:${pwd}`, 'm=audio 9 UDP/TLS/RTP/SAVPF 0', mid];
  return told.map((line) => `${line}\r\n`).join('');
}

/**
 * @param {string} sdp the answer so far @param {string} fragment the server's side of the new ICE session
 * @returns {string} the answer with it
 */
export function withFragment(sdp, fragment) {
  const given = linesOf(fragment);
  const credentials = credentialsOf(given);
  const candidates = given.filter((line) => CANDIDATE.test(line));
  const lines = [];
  for (const line of linesOf(sdp)) {
    if (CANDIDATE.test(line)) continue;
    const [, name] = CREDENTIAL.exec(line) ?? [];
    lines.push(name ? `a=ice-${name}:${credentials[name]}` : line);
    // All m-lines are bundled: the first one's candidates are those of all.
    if (line.startsWith('a=mid:')) lines.push(...candidates.splice(0));
  }
  return lines.map((line) => `${line}\r\n`).join('');
}

/**
 * @param {string} sdp an answer @param {boolean} isWanted whether sound is to be sent with copies of what was sent before
 * @returns {string} the answer that prefers it so; the same where such a format (RED, RFC 2198) was not agreed on
 */
export function withCopies(sdp, isWanted) {
  const [, red] = /^a=rtpmap:(\d+) red\/48000/im.exec(sdp) ?? [];
  return sdp.replace(/^(m=audio \d+ \S+ )([\d ]+)/m, (_, head, formats) => {
    const others = formats.trim().split(' ').filter((/** @type {string} */ format) => format !== red);
    const ours = red ? [red] : [];
    return head + (isWanted ? [...ours, ...others] : [...others, ...ours]).join(' ');
  });
}
