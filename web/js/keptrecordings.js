/** The calls that were recorded, on the admin page: opening them, fetching their parts, and deleting them. */

import { Refusal } from '../lib/server.js';
import { server } from './access.js';
import { byId, clockText, make, setText, valueText } from './dom.js';
import { dateText, t, tOr } from './i18n.js';
import { LiveTable } from './livetable.js';
import { NewsList } from './newslist.js';

/** They change seldom. */
const EVERY_MS = 10_000;

/**
 * @typedef {Object} Recording
 * @property {string} call_id
 * @property {number} began_at
 * @property {number|null} ended_at
 * @property {string} reason
 * @property {boolean} is_open
 * @property {boolean} is_cut_short
 * @property {number} up
 * @property {number} down
 * @property {{name: string, bytes: number}[]} files
 */

export class KeptRecordings {
  #kept = new NewsList(() => server.recordings(), { enabled: false, recordings: [] }, EVERY_MS);
  /** @type {LiveTable<Recording>} */ #table;

  constructor() {
    this.#table = new LiveTable(byId('recordings'), [
      { title: 'column.call', text: ({ call_id }) => call_id },
      { title: 'column.began', text: ({ began_at }) => dateText(1000 * began_at) },
      { title: 'column.length', text: ({ began_at, ended_at }) => (ended_at ? clockText(ended_at - began_at) : ''), isNumber: true },
      { title: 'column.ending', text: endingOf, tone: ({ is_cut_short }) => (is_cut_short ? 'warn' : '') },
      { title: 'column.ratings', text: ({ up, down }) => (up || down ? `+${up} −${down}` : ''), isOptional: true },
      { title: 'column.size', text: ({ files }) => valueText(files.reduce((sum, { bytes }) => sum + bytes, 0) / 1e6, 'MB', 1), isNumber: true },
      { title: 'column.file', build: (one) => this.#files(one) },
      { title: 'column.delete', build: (one) => this.#deleteButton(one) },
    ], ({ call_id, files }) => `${call_id} ${files.map(({ name }) => name)}`, 'none.recordings');
  }

  /** Asks the server, if it was not asked lately. */
  async refresh() {
    const news = await this.#kept.news();
    if (!news) return;
    const { enabled, recordings } = news;
    this.#table.update(recordings);
    byId('recordings-section').hidden = !enabled && !recordings.length;
  }

  /** @param {Recording} recording */
  #files(recording) {
    const { call_id, files } = recording;
    const open = make('button', { type: 'button', class: 'primary small', text: t('recording.open_it'), 'aria-label': t('recording.open_call', { call: call_id }) });
    open.addEventListener('click', () => this.#told(open, async () => {
      const { openRecording } = await import('./recordingview.js');
      await openRecording(recording);
    }));
    const buttons = files.map(({ name }) => {
      const label = t('recording.fetch', { name, call: call_id });
      const button = make('button', { type: 'button', class: 'quiet small', text: name, 'aria-label': label });
      button.addEventListener('click', () => this.#told(button, () => fetchFile(call_id, name)));
      return button;
    });
    const parts = make('details', {}, make('summary', { text: files.length === 1 ? t('recording.file') : t('recording.files', { count: files.length }) }), make('span', { class: 'files' }, ...buttons));
    return make('span', { class: 'parts' }, open, parts);
  }

  /** @param {Recording} recording */
  #deleteButton({ call_id }) {
    const label = t('recording.delete', { call: call_id });
    const button = make('button', { type: 'button', class: 'quiet small', text: t('voice.delete'), 'aria-label': label });
    button.addEventListener('click', async () => {
      if (!window.confirm(t('recording.sure', { call: call_id }))) return;
      await this.#told(button, () => server.deleteRecording(call_id));
      this.#kept.changed();
      await this.refresh();
    });
    return button;
  }

  /** @param {HTMLButtonElement} button @param {() => Promise<void>} work of which a failure is told */
  async #told(button, work) {
    button.disabled = true;
    setText(byId('recordings-said'), '');
    try {
      await work();
    } catch (error) {
      setText(byId('recordings-said'), (error instanceof Refusal && error.message) || t('away.title'));
    }
    button.disabled = false;
  }
}

/** @param {Recording} recording */
function endingOf({ is_open, is_cut_short, reason, ended_at }) {
  const ending = ended_at ? tOr(`ended.${reason}`, reason) : t(is_open ? 'recording.open' : 'recording.broken');
  return is_cut_short ? `${ending} (${t('recording.cut')})` : ending;
}

/** @param {string} callId @param {string} name */
async function fetchFile(callId, name) {
  const file = await server.file(`/api/recordings/${encodeURIComponent(callId)}/${encodeURIComponent(name)}`);
  const href = URL.createObjectURL(file);
  make('a', { href, download: `${callId}.${name}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
