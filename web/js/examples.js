/** Phrases to begin with, while nothing was said. */

import { byId, make, setText } from './dom.js';
import { engineKind } from './enginekind.js';
import { languageName, languageNow, t } from './i18n.js';

/** What the built-in engine has a command for; it knows English only. */
const COMMANDS = ['What can you do?', 'What time is it?', 'Tell me a story', 'What is seven times eight?', 'What do you see?'];
const PHRASES = ['example.hello', 'example.story', 'example.explain', 'example.translate'];
const SEEING = 'example.see';

/**
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
