/** Looks for the server, and tells about its engine: while it starts, when it is there, and what can be said to it. */

import { Refusal } from '../lib/omnicall.js';
import { server } from './access.js';
import { byId, make, setText } from './dom.js';
import { aboutText, engineKind, startText } from './engine.js';
import { languageName, languageNow, t, tOr, tongue } from './i18n.js';

const LOOK_FOR_SERVER_MS = 3000;
const LOOK_FOR_ENGINE_MS = 1000;
/** What the built-in engine has a command for; it knows English only. */
const COMMANDS = ['What can you do?', 'What time is it?', 'Tell me a story', 'What is seven times eight?', 'What do you see?'];
const PHRASES = ['example.hello', 'example.story', 'example.explain', 'example.translate'];
const SEEING = 'example.see';

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
    setText(byId('engine-text'), starting ? startText(starting) : aboutText(this.#info));
    byId('engine').dataset.starting = String(Boolean(starting));
    const languages = (engine?.languages ?? []).map(languageName).join(t('list.comma'));
    setText(byId('engine-more'), [languages, `${name ?? 'omnicall'} ${version ?? ''}`.trim()].filter(Boolean).join(' · '));
    const progress = byId('start-progress');
    progress.hidden = !starting;
    if (starting?.percent === null || starting?.percent === undefined) progress.removeAttribute('value');
    else progress.value = starting.percent;
  }
}

/**
 * Phrases to begin with, while nothing was said.
 *
 * @param {import('../lib/server.js').Info|null} info
 * @param {boolean} hasPicture
 * @param {(text: string) => void} onChoice
 */
export function showExamples(info, hasPicture, onChoice) {
  const languages = info?.engine?.languages ?? [];
  const isCommands = engineKind(info) === 'rules';
  const texts = isCommands ? COMMANDS : [...(hasPicture ? [SEEING] : []), ...PHRASES].map((key) => t(key));
  const place = byId('examples');
  const shown = [...place.children].map((node) => node.textContent).join('\n');
  if (shown !== texts.join('\n')) {
    place.replaceChildren(...texts.map((text) => {
      const button = make('button', { type: 'button', text, lang: isCommands ? 'en' : undefined });
      button.addEventListener('click', () => onChoice(text));
      return button;
    }));
  }
  byId('examples-title').hidden = !info;
  const isForeign = languages.length > 0 && !languages.some((tag) => tag.startsWith(languageNow()));
  byId('examples-language').hidden = !isForeign;
  setText(byId('examples-language'), isForeign ? t('examples.language', { languages: languages.map(languageName).join(t('list.comma')) }) : '');
}
