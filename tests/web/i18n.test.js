/** The words of the pages: complete in each language, none unused, and none left in the documents and scripts. */

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';

import en from '../../web/i18n/en.js';
import zh from '../../web/i18n/zh.js';

const web = new URL('../../web/', import.meta.url);
const read = (/** @type {string} */ path) => readFileSync(new URL(path, web), 'utf8');
const pages = readdirSync(web).filter((name) => name.endsWith('.html'));
const scripts = readdirSync(new URL('js/', web)).filter((name) => name.endsWith('.js')).map((name) => `js/${name}`);
const withoutComments = (/** @type {string} */ text) => text.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');

/** @type {Set<string>} */ const named = new Set();
/** @type {Set<string>} beginnings of keys that end in a code */ const families = new Set();
for (const page of pages) {
  for (const [, key] of read(page).matchAll(/data-i18n="([^"]+)"/g)) named.add(key);
  for (const [, pairs] of read(page).matchAll(/data-i18n-attr="([^"]+)"/g)) pairs.split(';').forEach((pair) => named.add(pair.split(':')[1]));
}
for (const script of scripts) {
  const text = withoutComments(read(script));
  for (const [, key] of text.matchAll(/'([a-z_]+(?:\.[\w -]+)+)'/g)) named.add(key);
  for (const [, begin] of text.matchAll(/`([a-z_]+\.(?:[\w.]+\.)?)\$\{/g)) families.add(begin);
  for (const [, key] of text.matchAll(/`([a-z_]+(?:\.[a-z_]+)+)`/g)) named.add(key);
}

test('each language says the same keys, with the same values in braces', () => {
  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
  const braces = (/** @type {string} */ text) => (text.match(/\{\w+\}/g) ?? []).sort();
  for (const [key, text] of Object.entries(en)) {
    assert.ok(text && /** @type {any} */ (zh)[key], key);
    assert.deepEqual(braces(/** @type {any} */ (zh)[key]), braces(text), key);
  }
});

test('what the pages name is there', () => {
  for (const page of pages) {
    const keys = [...read(page).matchAll(/data-i18n(?:-attr)?="([^"]+)"/g)].flatMap(([, list]) => list.split(';').map((one) => one.split(':').pop()));
    for (const key of keys) assert.ok(key && key in en, `${page}: ${key}`);
  }
  for (const script of scripts) {
    for (const [, key] of withoutComments(read(script)).matchAll(/\bt\('([^']+)'/g)) assert.ok(key in en, `${script}: ${key}`);
  }
});

test('no words are kept that nothing shows', () => {
  const unused = Object.keys(en).filter((key) => !named.has(key) && ![...families].some((begin) => key.startsWith(begin)));
  assert.deepEqual(unused, []);
});

test('no words are left in the documents', () => {
  for (const page of pages) {
    const body = read(page).replace(/<noscript>[\s\S]*?<\/noscript>|<kbd>\w+<\/kbd>|<title>omnicall[^<]*<\/title>|<!--[\s\S]*?-->/g, '');
    const words = [...body.matchAll(/>([^<>]*\p{L}{2}[^<>]*)</gu)].map(([, text]) => text.trim()).filter((text) => text !== 'omnicall');
    assert.deepEqual(words, [], page);
    const attributes = [...body.matchAll(/\s(?:aria-label|title|placeholder|alt)="([^"]*\p{L}[^"]*)"/gu)].map(([, text]) => text);
    assert.deepEqual(attributes, [], page);
  }
});

test('no words are left in the scripts', () => {
  // Commands that the built-in engine knows are English in any language.
  const known = /^(?:What |Tell me a story|A demo|loading |warming up|Not Found)/;
  for (const script of scripts) {
    const texts = [...withoutComments(read(script)).matchAll(/'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`/g)].map(([, single, back]) => single ?? back);
    const words = texts.filter((text) => /^\p{Lu}\p{Ll}+(?:[ ,.!?…]|$)/u.test(text.trim()) && /\p{L}+ \p{L}+|[.!?…]$/u.test(text) && !known.test(text));
    assert.deepEqual(words, [], script);
    const shown = [...withoutComments(read(script)).matchAll(/(?:setText\([^,\n]+,|\b(?:text|title|placeholder|label):)\s*['`](\p{Lu}[^'`]*)/gu)];
    assert.deepEqual(shown.map(([, text]) => text), [], script);
  }
});
