/** What people should read: why a call ended, whether calling again may bring the conversation back, and what is told in it. */

import { Refusal } from './server.js';

/**
 * @typedef {Object} Ending
 * @property {'hangup'|'left'|'away'|'refused'|'no_path'|'lost'|'server'|'browser'|'device'} kind `no_path`: no media connection
 *   came about; `lost`: there was one; `server`: the server said so; `browser`: something failed here; `away`: the page was
 *   left and may be back
 * @property {string} message in words, for people
 * @property {string} [reason] the server's word for it
 * @property {Refusal} [refusal] the server did not take the call
 */

/** A call that did not come about or is over: what `connect()` rejects with. */
export class CallError extends Error {
  /** @param {Ending} ending */
  constructor(ending) {
    super(ending.message);
    this.name = 'CallError';
    this.ending = ending;
    this.kind = ending.kind;
  }
}

/** @type {Record<Ending['kind'], string>} */
const WORDS = {
  hangup: 'The call was hung up.',
  left: 'The page was left.',
  away: 'The page was left and may be back.',
  refused: 'The server did not take the call.',
  no_path: 'The server answered, but no media connection opened. A firewall or VPN may be blocking UDP.',
  lost: 'The connection was lost.',
  server: 'The server ended the call and gave no reason.',
  browser: 'The call could not be set up.',
  device: 'The device could not be used.',
};

/** @type {Record<Refusal['kind'], string>} */
const REFUSALS = {
  key: 'The server did not accept the access key.',
  busy: 'All places are taken at the moment.',
  rejected: 'The server did not accept this call.',
  fault: 'The server had an internal error.',
  away: 'The server cannot be reached.',
};

/** What a server says of calls that it did not end on purpose. */
const MISHAPS = [
  'engine_gone', 'engine_full', 'engine_failed', 'worker_gone', 'media_failed', 'internal_error',
  'server_shutdown', 'vanished', 'failed', 'connect_timeout', '',
];

/**
 * @param {Ending['kind']} kind
 * @param {{message?: string, reason?: string, refusal?: Refusal}} [more]
 * @returns {Ending} which says why in words, the server's own where there are some
 */
export function ending(kind, more = {}) {
  const { refusal } = more;
  const message = more.message || refusal?.message || (refusal && REFUSALS[refusal.kind]) || WORDS[kind];
  return { ...more, kind, message };
}

/**
 * @param {Ending} end of a connection
 * @param {boolean} wasServed whether there was a conversation before it
 */
export function mayComeBack({ kind, reason, refusal }, wasServed) {
  if (!wasServed) return false;
  if (kind === 'refused') return ['away', 'busy', 'fault'].includes(refusal?.kind ?? '');
  if (kind === 'server') return MISHAPS.includes(reason ?? '');
  return kind === 'lost' || kind === 'no_path';
}

/**
 * @typedef {Object} CallNotice
 * @property {'warning'|'error'} tone
 * @property {string} code
 * @property {string} message
 */

/** @param {any} event of the server @returns {CallNotice|null} */
export function noticeOf(event) {
  if (event.type === 'session.warning') return notice('warning', event);
  const error = event.type === 'error' ? event.error : event.response?.status_details?.error;
  // Stopping an answer that has just ended by itself is no news to anybody.
  return error?.code === 'response_cancel_not_active' ? null : notice('error', error);
}

/** @param {CallNotice['tone']} tone @param {any} said */
function notice(tone, said) {
  return said?.message ? { tone, code: String(said.code ?? ''), message: String(said.message) } : null;
}
