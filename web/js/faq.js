/** The questions page: words in the chosen language; an address with a question's name opens it. */

import { bindLanguageButton } from './i18n.js';

bindLanguageButton(/** @type {HTMLElement} */ (document.getElementById('language')));
const asked = document.getElementById(location.hash.slice(1));
if (asked instanceof HTMLDetailsElement) {
  asked.open = true;
  asked.scrollIntoView();
}
