/** The voices that callers brought, on the admin page: what they are, whether engines can use them, and deleting them. */

import { Refusal } from '../lib/server.js';
import { server } from './access.js';
import { byId, make, setText, valueText } from './dom.js';
import { dateText, t } from './i18n.js';
import { LiveTable } from './livetable.js';
import { NewsList } from './newslist.js';

/** They change seldom. */
const EVERY_MS = 10_000;

/** @typedef {import('./voiceview.js').Voice & {created_at: number|null, engines: {engine: string, state: string, reason: string}[]}} KeptVoice */

export class KeptVoices {
  #all = new NewsList(() => server.voices(), { voices: [], upload: {} }, EVERY_MS);
  /** @type {LiveTable<KeptVoice>} */ #table;

  constructor() {
    this.#table = new LiveTable(byId('voices'), [
      { title: 'column.name', text: ({ name }) => name },
      { title: 'column.voice', text: ({ id }) => id },
      { title: 'column.length', text: ({ seconds }) => valueText(seconds, 's', 1), isNumber: true },
      { title: 'column.kept_since', text: ({ created_at }) => (created_at ? dateText(1000 * created_at) : '') },
      { title: 'column.state', text: stateOf, tone: ({ state }) => (state === 'failed' ? 'bad' : '') },
      { title: 'column.delete', build: (voice) => this.#deleteButton(voice) },
    ], ({ id }) => id, 'none.voices');
  }

  /** Asks the server, if it was not asked lately. */
  async refresh() {
    const news = await this.#all.news();
    if (!news) return;
    const kept = news.voices.filter(({ source }) => source === 'uploaded');
    this.#table.update(kept);
    byId('voices-section').hidden = !kept.length;
  }

  /** @param {KeptVoice} voice */
  #deleteButton({ id, name }) {
    const button = make('button', { type: 'button', class: 'quiet small', text: t('voice.delete'), 'aria-label': t('voice.delete_named', { name }) });
    button.addEventListener('click', async () => {
      if (!window.confirm(t('voice.delete_sure', { name }))) return;
      button.disabled = true;
      try {
        await server.deleteVoice(id);
        setText(byId('voices-said'), t('voice.deleted', { name }));
      } catch (error) {
        button.disabled = false;
        setText(byId('voices-said'), (error instanceof Refusal && error.message) || t('away.title'));
      }
      this.#all.changed();
      await this.refresh();
    });
    return button;
  }
}

/** @param {KeptVoice} voice */
function stateOf({ state, engines }) {
  const word = state === 'ready' ? t('state.ready') : t(`voice.state.${state}`);
  return [word, ...engines.map(({ reason }) => reason).filter(Boolean)].join(': ');
}
