/** What people should read of the server's events. */

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
