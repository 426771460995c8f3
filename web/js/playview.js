/** Playing a file into the call, with silence before and after it: the choice in the settings, its progress on the stage. */

import { byId, setText } from './dom.js';
import { t } from './i18n.js';
import { memory } from './memory.js';

const FIELDS = ['play-lead', 'play-padding'];

export class PlayView {
  #standIns;

  /** @param {import('./standins.js').StandIns} standIns @param {() => boolean} mayBegin says why not */
  constructor(standIns, mayBegin) {
    this.#standIns = standIns;
    for (const id of FIELDS) {
      byId(id).value = memory.read(id) || byId(id).value;
      byId(id).addEventListener('change', () => memory.write(id, byId(id).value));
    }
    const input = byId('play-input');
    byId('play-choose').addEventListener('click', () => input.click());
    input.addEventListener('change', () => {
      const [file] = input.files;
      input.value = '';
      if (file && mayBegin()) this.#play(file);
    });
    byId('playing-stop').addEventListener('click', () => standIns.stop());
  }

  /** @param {File} file */
  async #play(file) {
    const seconds = (/** @type {string} */ id) => Math.max(0, Math.min(600, byId(id).valueAsNumber || 0));
    const how = { lead_s: seconds('play-lead'), padding_s: seconds('play-padding'), isMixed: byId('play-mixed').checked };
    try {
      await this.#standIns.play(file, how);
      setText(byId('play-said'), '');
    } catch {
      setText(byId('play-said'), t('play.failed', { name: file.name }));
    }
  }

  show() {
    const { file } = this.#standIns;
    byId('playing').hidden = !file;
    if (!file) return;
    setText(byId('playing-name'), t(`play.stage.${file.stage}`, { name: file.name }));
    byId('playing-progress').value = file.stage === 'ready' || file.stage === 'lead' ? 0 : file.stage === 'playing' ? file.fraction : 1;
  }
}
