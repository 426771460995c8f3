/** What others wrote is what they published. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';

const folder = new URL('../../web/vendor/', import.meta.url);
const table = readFileSync(new URL('README.md', folder), 'utf8');
const scripts = readdirSync(folder).filter((name) => name.endsWith('.js'));

test('every vendored file is in the table, with the version it names and its own hash', () => {
  assert.deepEqual(scripts, ['marked.js']);
  for (const name of scripts) {
    const body = readFileSync(new URL(name, folder));
    const row = table.split('\n').find((line) => line.startsWith(`| \`${name}\``)) ?? '';
    assert.ok(row.includes(createHash('sha256').update(body).digest('hex')), `${name} is not what the table says`);
    const version = /\| (\d+\.\d+\.\d+) \|/.exec(row)?.[1];
    assert.ok(version && body.subarray(0, 200).includes(`v${version}`), `${name} is another version`);
    assert.ok(existsSync(new URL(name.replace('.js', '.LICENSE'), folder)), `${name} has no licence`);
  }
});
