/** Shows the figures of a call, and one sign for all of them. */

import { qualityOf } from '../lib/stats.js';
import { byId, make, setText, valueText } from './dom.js';

/** @typedef {import('../lib/stats.js').Figures} Figures */
/** @typedef {{last_ms: number, p50_ms: number, count: number}|null} Latency */

/** @type {[string, string, string, (now: Figures, latency: Latency) => string][]} */
const ROWS = [
  ['answer_ms', 'Answer after', 'From the server noticing the end of your speech to the first sound you hear',
    (_, latency) => (latency ? `${valueText(latency.last_ms, 'ms')} (median ${valueText(latency.p50_ms, 'ms')})` : '–')],
  ['rtt_ms', 'Round trip', 'Time to the server and back', (now) => valueText(now.rtt_ms, 'ms')],
  ['in_loss_pct', 'Loss, to you', 'Sound packets that did not arrive', (now) => valueText(now.in_loss_pct, '%', 1)],
  ['in_buffer_ms', 'Jitter buffer', 'Delay this browser adds to even out arrival times', (now) => valueText(now.in_buffer_ms, 'ms')],
  ['concealed_pct', 'Concealed', 'Sound this browser had to invent', (now) => valueText(now.concealed_pct, '%', 1)],
  ['out_loss_pct', 'Loss, to server', 'As the server reports it', (now) => valueText(now.out_loss_pct, '%', 1)],
  ['out_kbps', 'Sound sent', 'Bitrate of your voice', (now) => valueText(now.out_kbps, 'kbit/s')],
  ['in_kbps', 'Sound received', 'Bitrate of the answer', (now) => valueText(now.in_kbps, 'kbit/s')],
  ['video_fps', 'Camera sent', 'Pictures a second and their size',
    (now) => (now.video_fps === null ? 'off' : `${valueText(now.video_fps, 'fps', 1)}, ${now.video_width ?? '?'}×${now.video_height ?? '?'}`)],
];

const QUALITY = { good: 'good', fair: 'fair', poor: 'poor', unknown: 'not measured yet' };

export class FiguresView {
  /** @type {Map<string, Element>} */ #cells = new Map();

  constructor() {
    const list = byId('stats');
    for (const [name, label, title] of ROWS) {
      const cell = make('dd', { 'data-stat': name, text: '–' });
      this.#cells.set(name, cell);
      list.append(make('div', { title }, make('dt', { text: label }), cell));
    }
  }

  /** @param {Figures} now @param {Latency} latency */
  show(now, latency) {
    for (const [name, , , text] of ROWS) {
      const cell = this.#cells.get(name);
      if (cell) setText(cell, text(now, latency));
    }
    const quality = qualityOf(now);
    const sign = byId('quality');
    sign.hidden = false;
    sign.dataset.quality = quality;
    sign.setAttribute('aria-label', `Connection: ${QUALITY[quality]}`);
    sign.title = `Connection: ${QUALITY[quality]}`;
  }

  hideQuality() {
    byId('quality').hidden = true;
  }
}
