/** Figures of the model: a meter of its memory with the marks of its warnings, and a line of the last minute for each. */

import { byId, make, setText, valueText } from './dom.js';
import { numberText, t, tongue } from './i18n.js';
import { CONTEXT_MARKS } from './modelfigures.js';
import { Sparkline } from './sparkline.js';

/** @typedef {import('./modelfigures.js').ModelNow} ModelNow */

/** @type {{name: string, text: (now: ModelNow) => string, value: (now: ModelNow) => number|null, least: number}[]} */
const ROWS = [
  { name: 'unit_ms', text: (now) => valueText(now.unit_ms, 'ms'), value: (now) => now.unit_ms, least: 1000 },
  { name: 'first_sound_ms', text: (now) => valueText(now.first_sound_ms, 'ms'), value: (now) => now.first_sound_ms, least: 1000 },
  { name: 'cut_ms', text: (now) => valueText(now.cut_ms, 'ms'), value: (now) => now.cut_ms, least: 500 },
  { name: 'ahead_ms', text: (now) => valueText(now.ahead_ms, 'ms'), value: (now) => now.ahead_ms, least: 1000 },
  { name: 'tokens', text: tokensText, value: (now) => now.tokens_out, least: 100 },
];

/** @param {ModelNow} now */
function tokensText({ tokens_in, tokens_out }) {
  const count = (/** @type {number|null} */ value) => (value === null ? '–' : numberText(value));
  return t('figure.tokens.text', { read: count(tokens_in), made: count(tokens_out) });
}

export class ModelView {
  /** @type {Map<string, {row: HTMLElement, cell: Element, line: Sparkline}>} */ #rows = new Map();
  #meter = byId('context-meter');

  constructor() {
    const list = byId('model-stats');
    for (const { name, least } of ROWS) {
      const cell = make('dd', { 'data-stat': name, text: '–' });
      const line = new Sparkline(least);
      const row = make('div', {}, make('dt', {}), line.node, cell);
      list.append(row);
      this.#rows.set(name, { row, cell, line });
    }
    for (const mark of CONTEXT_MARKS) {
      const sign = make('i', { class: 'context-mark' });
      // The page forbids inline styles in markup, not the object model.
      sign.style.insetInlineStart = `${mark * 100}%`;
      this.#meter.append(sign);
    }
    tongue.addEventListener('change', () => this.#name());
    this.#name();
  }

  #name() {
    for (const [name, { row }] of this.#rows) {
      setText(/** @type {Element} */ (row.firstElementChild), t(`figure.${name}`));
      row.title = t(`figure.${name}.about`);
    }
  }

  /** @param {import('./modelfigures.js').ModelFigures} figures */
  show({ now, recent, contextShare: share }) {
    for (const { name, text, value } of ROWS) {
      const shown = this.#rows.get(name);
      if (!shown) continue;
      setText(shown.cell, text(now));
      shown.line.draw(recent.map(value).filter((one) => one !== null));
    }
    byId('context').hidden = share === null;
    if (share === null) return;
    const percent = Math.round(share * 100);
    this.#meter.style.setProperty('--share', share.toFixed(3));
    this.#meter.setAttribute('aria-valuenow', String(percent));
    this.#meter.dataset.level = String(CONTEXT_MARKS.filter((mark) => share >= mark).length);
    setText(byId('context-text'), t('figure.context.text', {
      used: numberText(now.context_tokens ?? 0), limit: numberText(now.context_limit ?? 0), percent: numberText(percent),
    }));
  }
}
