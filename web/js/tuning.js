/** What the user may set of a call: preset and prompt, voice, answers, and a file in place of microphone and camera. */

import { byId } from './dom.js';
import { sessionMode } from './mode.js';
import { PlayView } from './playview.js';
import { PresetView } from './presetview.js';
import { server } from './access.js';
import { VoiceView } from './voiceview.js';
import { WishView } from './wishview.js';

export class Tuning {
  #conversation;
  #presets;
  #voices;
  #wishes;
  #play;
  /** What was last shown, so that lists are not built with each change of the call. */
  #shown = '';

  /** @param {import('./conversation.js').Conversation} conversation @param {() => boolean} mayBegin */
  constructor(conversation, mayBegin) {
    const { wishes } = conversation;
    this.#conversation = conversation;
    this.#presets = new PresetView(wishes);
    this.#voices = new VoiceView(wishes);
    this.#wishes = new WishView(wishes);
    this.#play = new PlayView(conversation.standIns, mayBegin);
    this.#presets.addEventListener('chosen', (event) => {
      const { mode, media = [] } = /** @type {CustomEvent} */ (event).detail.preset;
      if (conversation.mode.supported.includes(mode) && conversation.mode.now !== mode) conversation.chooseMode(mode);
      if (conversation.call) conversation.writing.bring(media);
    });
    byId('settings').addEventListener('open', () => this.#refresh());
  }

  /** The server was found, or has another engine. */
  offer() {
    this.#wishes.support(this.#conversation.honours);
    this.#voices.fit(this.#conversation.honours('prompt_voice'));
    if (!byId('settings').hidden) this.#refresh();
  }

  async #refresh() {
    const { info } = this.#conversation;
    const presets = await server.presets().catch(() => []);
    this.#presets.offer(presets);
    await this.#voices.refresh(info?.engine?.voices);
    this.#voices.fit(this.#conversation.honours('prompt_voice'));
    this.show();
  }

  show() {
    this.#play.show();
    const { mode, info } = this.#conversation;
    const now = { mode: sessionMode(mode.now), canSee: info?.engine?.video ?? true, voiceLanguage: this.#voices.language };
    const key = JSON.stringify(now);
    if (key === this.#shown) return;
    this.#shown = key;
    this.#presets.fit(now);
    this.#wishes.fit(mode.now);
  }
}
