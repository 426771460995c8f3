/** Markdown as a tree of elements: what it makes of good text, and what bad text cannot make of it. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { looksMarked, splitThinking, treesOf } from '../../web/js/markdown.js';
import { lexer } from '../../web/vendor/marked.js';

/** @param {import('../../web/js/markdown.js').Tree} tree @returns {string} */
function html(tree) {
  if (typeof tree === 'string') return tree.replaceAll('<', '‹');
  const attributes = Object.entries(tree.attributes ?? {}).filter(([, value]) => value !== undefined);
  const open = [tree.tag, ...attributes.map(([name, value]) => `${name}=${value}`)].join(' ');
  return `<${open}>${tree.children.map(html).join('')}</${tree.tag}>`;
}

/** @param {string} text */
const shown = (text) => treesOf(lexer(text, { gfm: true, breaks: true })).map(html).join('');

test('words, lists, code and tables become elements', () => {
  assert.equal(shown('A **b** *c* `d`'), '<p>A <strong>b</strong> <em>c</em> <code>d</code></p>');
  assert.equal(shown('# Title'), '<h3 data-depth=1>Title</h3>');
  assert.equal(shown('### Part'), '<h3 data-depth=3>Part</h3>');
  assert.equal(shown('- a\n- b'), '<ul><li>a</li><li>b</li></ul>');
  assert.equal(shown('3. a\n4. b'), '<ol start=3><li>a</li><li>b</li></ol>');
  assert.equal(shown('- [x] a'), '<ul><li>☑ a</li></ul>');
  assert.equal(shown('```py\nx < 1\n```'), '<pre tabindex=0><code data-lang=py>x ‹ 1</code></pre>');
  assert.match(shown('|a|b|\n|-|:-:|\n|1|2|'), /<tr><td>1<\/td><td data-align=center>2<\/td><\/tr>/);
  assert.equal(shown('one\ntwo'), '<p>one<br></br>two</p>');
});

test('HTML is shown and not run', () => {
  assert.equal(shown('<img src=x onerror=alert(1)>'), '‹img src=x onerror=alert(1)>');
  assert.equal(shown('a <b onclick=x()>b</b>'), '<p>a ‹b onclick=x()>b‹/b></p>');
  assert.equal(shown('&lt;script&gt; &amp; &nosuch;'), '<p>‹script> & &nosuch;</p>');
});

test('links lead to the web or to mail and to nothing else', () => {
  assert.match(shown('[a](https://example.com)'), /<a href=https:\/\/example\.com target=_blank rel=noopener noreferrer nofollow>a<\/a>/);
  for (const bad of ['javascript:alert(1)', 'JaVaScRiPt:alert(1)', 'data:text/html,x', '/admin', 'vbscript:x', 'blob:x']) {
    assert.equal(shown(`[a](${bad})`), '<p>a</p>', bad);
  }
});

test('a picture from elsewhere is a link and is not fetched', () => {
  assert.match(shown('![cat](https://example.com/cat.png)'), /^<p><a href=\S+ target=\S+ rel=[^>]+>cat<\/a><\/p>$/);
});

test('nesting is bounded', () => {
  const deep = shown(`${'> '.repeat(400)}x`);
  assert.ok((deep.match(/<blockquote>/g) ?? []).length <= 30);
});

test('marks beyond counting are left as they are', () => {
  assert.ok(!looksMarked('*a_'.repeat(600)));
});

test('plain sentences need no parser', () => {
  for (const plain of ['It is noon.', 'Ja, 3 - 2 = 1!', '你好，今天怎么样？']) assert.ok(!looksMarked(plain), plain);
  for (const marked of ['**a**', '- a', '1. a', 'a\nb', '# a', '`a`', 'see https://a.example']) assert.ok(looksMarked(marked), marked);
});

test('what was thought stands apart from what is answered', () => {
  assert.deepEqual(splitThinking('Yes.'), { thinking: '', answer: 'Yes.', isThinking: false });
  assert.deepEqual(splitThinking('<think>\nhm'), { thinking: 'hm', answer: '', isThinking: true });
  assert.deepEqual(splitThinking('<think>hm</think>\n\nYes.'), { thinking: 'hm', answer: 'Yes.', isThinking: false });
});
