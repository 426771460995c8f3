/** A conversation as it is kept in the browser: what it is called, found by and exported as. No document here. */

const TITLE_CHARS = 60;
const AROUND_CHARS = 40;

/** @typedef {import('../lib/captions.js').Caption} Caption */

/**
 * @typedef {Object} Chat
 * @property {string} id
 * @property {number} begun_ms as of Date.now(); so is `changed_ms`
 * @property {number} changed_ms
 * @property {string} mode
 * @property {Caption[]} rows
 * @property {Record<string, Vote>} [votes] by the ids of answers
 */

/** @typedef {{is: 'up'|'down', word?: string}} Vote */

/** @returns {string} an id that sorts by time */
export function newChatId(now_ms = Date.now()) {
  const [value] = crypto.getRandomValues(new Uint32Array(1));
  return `chat_${now_ms.toString(36)}_${value.toString(36)}`;
}

/** @param {Pick<Chat, 'rows'>} chat @returns {string} its first words; '' if nothing was said */
export function titleOf({ rows }) {
  const spoken = rows.filter((row) => row.role !== 'note' && row.text.trim());
  const first = spoken.find((row) => row.role === 'user') ?? spoken[0];
  const words = (first?.text ?? '').replace(/\s+/g, ' ').trim();
  return words.length <= TITLE_CHARS ? words : `${words.slice(0, TITLE_CHARS - 1).trimEnd()}…`;
}

/** @param {Pick<Chat, 'rows'>} chat whether anything in it is worth keeping */
export function isWorthKeeping({ rows }) {
  return rows.some((row) => row.role !== 'note');
}

/**
 * @param {Pick<Chat, 'rows'>} chat
 * @param {string} query words that must all occur in it, in any order and case
 * @returns {string|null} where the first word stands, with what is around it; null: not in this conversation
 */
export function findIn({ rows }, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = rows.filter((row) => row.role !== 'note').map((row) => row.text);
  const all = texts.join('\n').toLowerCase();
  if (!words.every((word) => all.includes(word))) return null;
  const [first] = words;
  if (!first) return '';
  const text = (texts.find((one) => one.toLowerCase().includes(first)) ?? '').replace(/\s+/g, ' ');
  const at = text.toLowerCase().indexOf(first);
  const from = Math.max(0, at - AROUND_CHARS);
  const to = at + first.length + AROUND_CHARS;
  return `${from ? '…' : ''}${text.slice(from, to).trim()}${to < text.length ? '…' : ''}`;
}

/**
 * @param {Chat} chat
 * @param {{title: string, when: string, speakers: Record<Caption['role'], string>, cut: string}} words in the user's language
 * @returns {string} Markdown
 */
export function markdownOf(chat, words) {
  const rows = chat.rows.filter((row) => row.text || row.media?.length).map((row) => {
    const files = (row.media ?? []).map(({ name }) => `[${name}]`);
    const cut = row.status === 'cut' ? `*(${words.cut})*` : '';
    return `**${words.speakers[row.role]}:** ${[...files, row.text, cut].filter(Boolean).join(' ')}`;
  });
  return [`# ${titleOf(chat) || words.title}`, `*${words.when}*`, ...rows, ''].join('\n\n');
}

/** @param {Chat} chat @returns {string} JSON for programs, without the files */
export function jsonOf(chat) {
  const messages = chat.rows.filter(({ role }) => role !== 'note').map(({ id, role, text, status, typed, heard_ms, media }) => ({
    id, role, text, status, typed,
    ...(heard_ms === undefined ? {} : { heard_ms }),
    ...(media?.length ? { files: media.map(({ name, kind }) => ({ name, kind })) } : {}),
    ...(chat.votes?.[id] ? { feedback: chat.votes[id] } : {}),
  }));
  const { id, mode } = chat;
  const times = { begun: new Date(chat.begun_ms).toISOString(), changed: new Date(chat.changed_ms).toISOString() };
  return JSON.stringify({ format: 'omnicall.conversation', version: 1, id, ...times, mode, messages }, null, 2);
}

/** @param {Chat} chat @param {'md'|'json'} suffix @returns {string} a name for the file that works on every system */
export function fileNameOf(chat, suffix) {
  const words = titleOf(chat).replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-+|-+$/g, '').slice(0, 40);
  return `${new Date(chat.begun_ms).toISOString().slice(0, 10)}-${words || 'conversation'}.${suffix}`;
}
