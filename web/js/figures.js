/** Shows the figures of a call. Loaded when its panel is first opened. */

import { byId, make, setText, valueText } from './dom.js';
import { t, tongue } from './i18n.js';

/** @typedef {import('../lib/stats.js').Figures} Figures */
/** @typedef {{last_ms: number, p50_ms: number, count: number}|null} Latency */

/** @type {[string, (now: Figures, latency: Latency) => string][]} name, and its value in words */
const ROWS = [
  ['answer_ms', (_, latency) => (latency ? t('figure.median', { last: valueText(latency.last_ms, 'ms'), median: valueText(latency.p50_ms, 'ms') }) : '–')],
  ['mos', (now) => (now.mos === null ? '–' : now.mos.toFixed(1))],
  ['rtt_ms', (now) => valueText(now.rtt_ms, 'ms')],
  ['in_loss_pct', (now) => valueText(now.in_loss_pct, '%', 1)],
  ['in_buffer_ms', (now) => valueText(now.in_buffer_ms, 'ms')],
  ['concealed_pct', (now) => valueText(now.concealed_pct, '%', 1)],
  ['out_loss_pct', (now) => valueText(now.out_loss_pct, '%', 1)],
  ['out_kbps', (now) => valueText(now.out_kbps, 'kbit/s')],
  ['in_kbps', (now) => valueText(now.in_kbps, 'kbit/s')],
  ['video_fps', (now) => (now.video_fps === null ? t('figure.off') : `${valueText(now.video_fps, 'fps', 1)}, ${now.video_width ?? '?'}×${now.video_height ?? '?'}`)],
];

export class FiguresView {
  /** @type {Map<string, Element>} */ #cells = new Map();

  constructor() {
    const list = byId('stats');
    for (const [name] of ROWS) {
      const cell = make('dd', { 'data-stat': name, text: '–' });
      this.#cells.set(name, cell);
      list.append(make('div', {}, make('dt', {}), cell));
    }
    tongue.addEventListener('change', () => this.#name());
    this.#name();
  }

  #name() {
    for (const [name, cell] of this.#cells) {
      const row = /** @type {HTMLElement} */ (cell.parentElement);
      setText(/** @type {Element} */ (row.firstElementChild), t(`figure.${name}`));
      row.title = t(`figure.${name}.about`);
    }
  }

  /** @param {Figures} now @param {Latency} latency */
  show(now, latency) {
    for (const [name, text] of ROWS) {
      const cell = this.#cells.get(name);
      if (cell) setText(cell, text(now, latency));
    }
  }
}
