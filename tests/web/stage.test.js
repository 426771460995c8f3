/** What lies over a picture can be read, whatever the picture shows and in either theme. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

const sheet = (/** @type {string} */ name) => readFileSync(new URL(`../../web/css/${name}.css`, import.meta.url), 'utf8');
const base = sheet('base');
const stage = sheet('stage');

/** @param {string} name @returns {string[]} in each theme */
const values = (name) => [...base.matchAll(new RegExp(`--${name}: ([^;]+);`, 'g'))].map(([, value]) => value);

/** @param {string} selector @returns {string|undefined} what it sets `color` to */
function colourOf(selector) {
  const rule = stage.split('}').find((one) => one.split('{')[0].trim().endsWith(`\n${selector}`) || one.split('{')[0].trim() === selector);
  return rule?.match(/[{;]\s*color: ([^;]+);/)?.[1];
}

/** @param {number[]} rgb @returns {number} as WCAG defines it */
function luminance(rgb) {
  const [red, green, blue] = rgb.map((part) => (part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

test('the sign that calls are recorded stands out from a large picture', () => {
  const [red, green, blue, percent] = (values('over')[0].match(/\d+/g) ?? []).map(Number);
  const white = [red, green, blue].map((part) => (part * percent) / 100 + 255 * (1 - percent / 100));
  const colour = colourOf('.stage[data-picture="large"] .recorded') ?? colourOf('.recorded') ?? '';
  const given = values(colour.match(/--([\w-]+)/)?.[1] ?? '');
  assert.ok(given.length > 0, colour);
  for (const hex of given) {
    const own = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const ratio = (luminance(own) + 0.05) / (luminance(white) + 0.05);
    assert.ok(Math.max(ratio, 1 / ratio) >= 4.5, `${hex}: ${ratio}`);
  }
});
