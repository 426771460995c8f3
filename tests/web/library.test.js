/** What the folder of the library is made of. */

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';

const folder = new URL('../../web/lib/', import.meta.url);
const files = readdirSync(folder).map((name) => [name, readFileSync(new URL(name, folder), 'utf8')]);

test('a copy of the folder is complete: it imports nothing from elsewhere', () => {
  const imports = files.flatMap(([, text]) => [...text.matchAll(/(?:from|import\()\s*'([^']+)'/g)].map((found) => found[1]));
  assert.ok(imports.length > 20);
  assert.deepEqual(imports.filter((path) => !/^\.\/\w+\.js$/.test(path)), []);
});

test('it knows no document and keeps nothing in the browser', () => {
  for (const [name, text] of files) assert.doesNotMatch(text, /\b(document|window|localStorage|sessionStorage)\./, name);
});
