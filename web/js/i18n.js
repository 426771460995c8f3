/**
 * The words of the pages. Each language has a catalogue in `web/i18n`, which says the same keys; the address
 * (`?lang=zh`), the choice made before, or the browser decides which one is used.
 */

import { memory } from './memory.js';

/** @typedef {'en'|'zh'} Language */

/** @type {Record<Language, string>} as the document names them */
const TAGS = { en: 'en', zh: 'zh-CN' };

/** @type {Record<string, string>} */ let words = {};
/** @type {Language} */ let language = 'en';

/** Told `change` after another language was chosen. */
export const tongue = new EventTarget();

/** @param {string|null|undefined} tag @returns {Language|undefined} */
function known(tag) {
  const base = String(tag ?? '').toLowerCase().split(/[-_]/)[0];
  return base in TAGS ? /** @type {Language} */ (base) : undefined;
}

/** @returns {Language} */
function wanted() {
  const asked = known(new URLSearchParams(globalThis.location?.search).get('lang'));
  if (asked) memory.write('language', asked);
  const spoken = globalThis.document ? navigator.languages ?? [] : [];
  return asked ?? known(memory.read('language')) ?? spoken.map(known).find(Boolean) ?? 'en';
}

/** @param {Language} name */
async function load(name) {
  words = (await import(`../i18n/${name}.js`)).default;
  language = name;
  if (globalThis.document) document.documentElement.lang = TAGS[name];
}

/** @returns {Language} */
export function languageNow() {
  return language;
}

/** @param {Language} name kept for later visits */
export async function chooseLanguage(name) {
  memory.write('language', name);
  await load(name);
  if (globalThis.document) translate(document);
  tongue.dispatchEvent(new Event('change'));
}

/**
 * @param {string} key
 * @param {Record<string, string|number>} [values] for what stands in braces
 * @returns {string}
 */
export function t(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/**
 * Words for what the server names by a code, or its own words where there are none here.
 * @param {string} key @param {string} otherwise
 */
export function tOr(key, otherwise) {
  return words[key] ?? otherwise;
}

/** Fills in what the document names: `data-i18n` its text, `data-i18n-attr` attributes as `name:key;name:key`. @param {ParentNode} root */
export function translate(root) {
  for (const node of root.querySelectorAll('[data-i18n]')) {
    const text = t(/** @type {HTMLElement} */ (node).dataset.i18n ?? '');
    if (node.textContent !== text) node.textContent = text;
  }
  for (const node of root.querySelectorAll('[data-i18n-attr]')) {
    for (const pair of (/** @type {HTMLElement} */ (node).dataset.i18nAttr ?? '').split(';')) {
      const [name, key] = pair.split(':');
      node.setAttribute(name, t(key));
    }
  }
}

/** @param {number} value @param {number} [digits] */
export function numberText(value, digits = 0) {
  return value.toLocaleString(TAGS[language], { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** @param {number} time_ms since 1970 */
export function dateText(time_ms) {
  return new Date(time_ms).toLocaleString(TAGS[language], { dateStyle: 'medium', timeStyle: 'short' });
}

/** @param {string} tag of a language, as in `en` */
export function languageName(tag) {
  try {
    return new Intl.DisplayNames([TAGS[language]], { type: 'language' }).of(tag) ?? tag;
  } catch {
    return tag;
  }
}

/** The button that goes on to the next language. @param {HTMLElement} button */
export function bindLanguageButton(button) {
  const other = () => /** @type {Language} */ (language === 'en' ? 'zh' : 'en');
  const dress = () => {
    button.textContent = t('language.other');
    button.lang = TAGS[other()];
  };
  button.addEventListener('click', () => chooseLanguage(other()));
  tongue.addEventListener('change', dress);
  dress();
}

await load(wanted());
if (globalThis.document) translate(document);
