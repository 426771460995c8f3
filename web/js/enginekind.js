/** Which of the engines that the page has words for. */

/** @typedef {import('../lib/server.js').Info} Info */

/** @param {Info|null} info @returns {'rules'|'chat'|string} `rules` and `chat`: the built-in engine by itself, or with a language model */
export function engineKind(info) {
  const { kind = '', description = '' } = info?.engine ?? {};
  if (kind !== 'builtin') return kind;
  return description.startsWith('A demo') ? 'rules' : 'chat';
}
