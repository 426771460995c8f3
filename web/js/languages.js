/** In which language a text is written, as far as its letters tell, and whether what a call is made of goes together. */

/** Of the letters: below it a foreign name does not make a text foreign. */
const MAIN_SHARE = 0.3;

/** @type {[string, RegExp][]} scripts that one language alone has; the first that is found counts */
const SCRIPTS = [
  ['ja', /[\p{Script=Hiragana}\p{Script=Katakana}]/gu],
  ['ko', /\p{Script=Hangul}/gu],
  ['zh', /\p{Script=Han}/gu],
];

/** @param {string} text @returns {string} `zh`, `en` ...; '' if it cannot be told: Latin letters are taken for English */
export function languageOf(text) {
  const letters = text.match(/\p{L}/gu)?.length ?? 0;
  if (!letters) return '';
  for (const [language, script] of SCRIPTS) {
    if ((text.match(script)?.length ?? 0) / letters > MAIN_SHARE) return language;
  }
  const latin = text.match(/[a-z]/gi)?.length ?? 0;
  return latin / letters > 0.9 && letters > 12 ? 'en' : '';
}

/** @param {string|undefined} tag @returns {string} without region: `zh` of `zh-CN` */
export function baseOf(tag) {
  return (tag ?? '').toLowerCase().split(/[-_]/)[0];
}

/**
 * @param {Object} of tags of languages, '' where unknown
 * @param {string} of.prompt
 * @param {string} of.voice
 * @param {string} of.page
 * @returns {{what: 'prompt_voice'|'prompt_page'|'voice_page', prompt: string, other: string}|null} the first two that differ
 */
export function clashOf({ prompt, voice, page }) {
  const [said, spoken, read] = [prompt, voice, page].map(baseOf);
  if (said && spoken && said !== spoken) return { what: 'prompt_voice', prompt: said, other: spoken };
  if (said && read && said !== read) return { what: 'prompt_page', prompt: said, other: read };
  if (spoken && read && spoken !== read) return { what: 'voice_page', prompt: said, other: spoken };
  return null;
}
