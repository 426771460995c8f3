/** What a kept conversation is called, found by and exported as. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { fileNameOf, findIn, isWorthKeeping, jsonOf, markdownOf, newChatId, titleOf } from '../../web/js/chat.js';

/** @param {string} id @param {'user'|'assistant'|'note'} role @param {string} text @param {Object} [more] @returns {any} */
const row = (id, role, text, more) => ({ id, role, text, status: 'done', typed: false, ...more });

/** @type {import('../../web/js/chat.js').Chat} */
const CHAT = {
  id: 'chat_1',
  begun_ms: Date.UTC(2026, 0, 2, 3),
  changed_ms: Date.UTC(2026, 0, 2, 4),
  mode: 'half_duplex',
  rows: [
    row('n1', 'note', 'Connected'),
    row('u1', 'user', 'What is   this?', { typed: true, media: [{ name: 'cat.png', kind: 'image' }] }),
    row('a1', 'assistant', 'A cat, and behind it', { status: 'cut', heard_ms: 900 }),
  ],
  votes: { a1: { is: 'down', word: 'too long' } },
};
const WORDS = { title: 'Conversation', when: '2 January 2026', speakers: { user: 'You', assistant: 'Assistant', note: 'Note' }, cut: 'interrupted' };

test('a conversation is called by what the user said first', () => {
  assert.equal(titleOf(CHAT), 'What is this?');
  assert.equal(titleOf({ rows: [row('a', 'assistant', 'Hello!')] }), 'Hello!');
  assert.equal(titleOf({ rows: [row('n', 'note', 'Nothing')] }), '');
  assert.equal(titleOf({ rows: [row('u', 'user', 'x'.repeat(200))] }).length, 60);
});

test('only what somebody said is worth keeping', () => {
  assert.ok(isWorthKeeping(CHAT));
  assert.ok(!isWorthKeeping({ rows: [row('n', 'note', 'Nothing')] }));
});

test('it is found by all of the words, in any order and case, and shown around the first', () => {
  assert.equal(findIn(CHAT, 'behind CAT'), 'A cat, and behind it');
  assert.equal(findIn(CHAT, 'cat dog'), null);
  assert.equal(findIn(CHAT, 'connected'), null);
  const long = { rows: [row('u', 'user', `${'a '.repeat(100)}needle${' b'.repeat(100)}`)] };
  assert.match(findIn(long, 'needle') ?? '', /^….*needle.*…$/);
});

test('Markdown holds speakers, files and where an answer was cut', () => {
  assert.equal(markdownOf(CHAT, WORDS), [
    '# What is this?', '*2 January 2026*', '**Note:** Connected', '**You:** [cat.png] What is   this?',
    '**Assistant:** A cat, and behind it *(interrupted)*', '',
  ].join('\n\n'));
});

test('JSON holds the messages for programs', () => {
  const told = JSON.parse(jsonOf(CHAT));
  assert.deepEqual([told.format, told.version, told.begun, told.mode], ['omnicall.conversation', 1, '2026-01-02T03:00:00.000Z', 'half_duplex']);
  assert.deepEqual(told.messages[0].files, [{ name: 'cat.png', kind: 'image' }]);
  assert.deepEqual(told.messages[1], {
    id: 'a1', role: 'assistant', text: 'A cat, and behind it', status: 'cut', typed: false, heard_ms: 900,
    feedback: { is: 'down', word: 'too long' },
  });
});

test('names of files suit every system', () => {
  assert.equal(fileNameOf(CHAT, 'md'), '2026-01-02-What-is-this.md');
  assert.equal(fileNameOf({ ...CHAT, rows: [row('u', 'user', '../../你好 ?')] }, 'json'), '2026-01-02-你好.json');
  assert.equal(fileNameOf({ ...CHAT, rows: [] }, 'json'), '2026-01-02-conversation.json');
});

test('ids differ', () => {
  assert.notEqual(newChatId(), newChatId());
});
