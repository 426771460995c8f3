/** Looks for the server, and tells about its engine while it starts and when it is there. */

import { Refusal } from '../lib/omnicall.js';
import { byId, setText } from './dom.js';
import { engineKind } from './enginekind.js';
import { languageName, t, tOr, tongue } from './i18n.js';
import { server } from './server.js';
import { startText } from './starting.js';

const LOOK_FOR_SERVER_MS = 3000;
const LOOK_FOR_ENGINE_MS = 1000;

/** @typedef {import('../lib/server.js').Info} Info */

/** Events: `found` {info} at each answer, `away` when there was none. */
export class ServerWatch extends EventTarget {
  #timer = 0;
  /** @type {Info|null} */ #info = null;

  constructor() {
    super();
    tongue.addEventListener('change', () => this.#show());
  }

  /** Asks now, and again while there is something to wait for. */
  async look() {
    clearTimeout(this.#timer);
    try {
      this.#info = await server.info();
    } catch (error) {
      const isAway = error instanceof Refusal && error.kind === 'away';
      setText(byId('engine-text'), t(isAway ? 'engine.away' : 'engine.silent'));
      this.#timer = window.setTimeout(() => this.look(), LOOK_FOR_SERVER_MS);
      this.dispatchEvent(new Event('away'));
      return;
    }
    if (this.#info.ready === false) this.#timer = window.setTimeout(() => this.look(), LOOK_FOR_ENGINE_MS);
    this.#show();
    this.dispatchEvent(new CustomEvent('found', { detail: this.#info }));
  }

  #show() {
    if (!this.#info) return;
    const { engine, name, version, starting } = this.#info;
    const kind = engineKind(this.#info);
    setText(byId('engine-label'), tOr(`engine.${kind}`, engine?.label || t('engine.title')));
    setText(byId('engine-text'), starting ? startText(starting) : tOr(`engine.${kind}.text`, engine?.description ?? ''));
    byId('engine').dataset.starting = String(Boolean(starting));
    const languages = (engine?.languages ?? []).map(languageName).join(t('list.comma'));
    setText(byId('engine-more'), [languages, `${name ?? 'omnicall'} ${version ?? ''}`.trim()].filter(Boolean).join(' · '));
    const progress = byId('start-progress');
    progress.hidden = !starting;
    if (starting?.percent === null || starting?.percent === undefined) progress.removeAttribute('value');
    else progress.value = starting.percent;
  }
}
