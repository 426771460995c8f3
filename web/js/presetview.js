/**
 * Presets and the prompt: choosing one, editing its words, keeping own ones, and a warning where languages differ.
 *
 * Events: `chosen` {preset}.
 */

import { byId, make, setText } from './dom.js';
import { languageName, languageNow, t, tongue } from './i18n.js';
import { clashOf, languageOf } from './languages.js';
import { OwnPresets, inOrder } from './presets.js';
import { personalOf, sessionOf, wishOf } from './wishes.js';

/** @typedef {import('./presets.js').Preset} Preset */

export class PresetView extends EventTarget {
  /** @type {Preset[]} */ #offered = [];
  #own = new OwnPresets();
  #mode = 'full_duplex';
  #canSee = true;
  #voiceLanguage = '';
  /** The preset that the wishes came from, '' once they were changed by hand. */
  #chosen = '';
  #wishes;

  /** @param {import('./wishes.js').Wishes} wishes */
  constructor(wishes) {
    super();
    this.#wishes = wishes;
    byId('preset').addEventListener('change', () => this.#choose(byId('preset').value));
    byId('prompt').addEventListener('change', () => this.#edit());
    byId('prompt').addEventListener('input', () => this.#showClash());
    byId('preset-save').addEventListener('click', () => this.#save());
    byId('preset-media-drop').addEventListener('click', () => wishes.change({ media: undefined }));
    byId('preset-delete').addEventListener('click', () => this.#own.delete(this.#chosen));
    this.#own.addEventListener('change', () => this.#build());
    wishes.addEventListener('change', () => this.show());
    tongue.addEventListener('change', () => this.#build());
    this.#build();
  }

  /** @param {Preset[]} presets of the server */
  offer(presets) {
    this.#offered = presets;
    this.#build();
  }

  /** @param {{mode: string, canSee: boolean, voiceLanguage: string}} now */
  fit({ mode, canSee, voiceLanguage }) {
    const isSame = mode === this.#mode && canSee === this.#canSee;
    this.#mode = mode;
    this.#canSee = canSee;
    this.#voiceLanguage = voiceLanguage;
    if (!isSame) this.#build();
    else this.#showClash();
  }

  get #all() {
    return [...this.#own.list(), ...inOrder(this.#offered, { mode: this.#mode, language: languageNow(), canSee: this.#canSee })];
  }

  /** @param {string} id */
  #choose(id) {
    const preset = this.#all.find((one) => one.id === id);
    this.#chosen = preset?.id ?? '';
    // A preset that names no voice leaves the one that was chosen.
    const kept = personalOf(this.#wishes.now);
    this.#wishes.replace(preset ? { ...kept, ...wishOf(preset.session), media: preset.media?.length ? preset.media : undefined } : kept);
    if (preset) this.dispatchEvent(new CustomEvent('chosen', { detail: { preset } }));
  }

  #edit() {
    const text = byId('prompt').value.trim();
    this.#wishes.change({ instructions: text || undefined });
  }

  #save() {
    const name = byId('preset-name').value.trim();
    const { now } = this.#wishes;
    const saved = this.#own.save({
      name, mode: this.#mode, language: languageOf(now.instructions ?? '') || languageNow(), session: sessionOf(now, () => true), media: now.media,
    });
    setText(byId('preset-said'), t(saved ? 'preset.saved' : name ? 'preset.full' : 'preset.nameless'));
    if (!saved) return;
    byId('preset-name').value = '';
    this.#chosen = saved.id;
    this.#build();
  }

  #build() {
    const { now } = this.#wishes;
    const own = this.#own.list();
    const groups = /** @type {[string, Preset[]][]} */ ([
      ['preset.own', own],
      ['preset.this_mode', this.#all.filter((one) => one.mode === this.#mode && !own.includes(one))],
      ['preset.other_modes', this.#all.filter((one) => one.mode !== this.#mode && !own.includes(one))],
    ]).filter(([, list]) => list.length).map(([key, list]) => make('optgroup', { label: t(key) }, ...list.map(option)));
    byId('preset').replaceChildren(make('option', { value: '', text: t(now.instructions ? 'preset.by_hand' : 'preset.none') }), ...groups);
    this.show();
  }

  show() {
    const { now } = this.#wishes;
    if (document.activeElement !== byId('prompt')) byId('prompt').value = now.instructions ?? '';
    const chosen = this.#all.find((one) => one.id === this.#chosen);
    const isAsChosen = chosen && (chosen.session.instructions ?? '') === (now.instructions ?? '');
    if (!isAsChosen) this.#chosen = '';
    byId('preset').value = this.#chosen;
    setText(byId('preset-about'), chosen?.description ?? '');
    const { media = [] } = now;
    byId('preset-media').hidden = !media.length;
    setText(byId('preset-media-names'), t('preset.media', { names: media.map(({ name }) => name).join(t('list.comma')) }));
    byId('preset-delete').hidden = !this.#own.list().some((one) => one.id === this.#chosen);
    this.#showClash();
  }

  #showClash() {
    const prompt = languageOf(byId('prompt').value);
    const clash = clashOf({ prompt, voice: this.#voiceLanguage, page: languageNow() });
    const words = clash && t(`clash.${clash.what}`, { prompt: languageName(clash.prompt), other: languageName(clash.other) });
    byId('clash').hidden = !words;
    setText(byId('clash'), words ?? '');
  }
}

/** @param {Preset} preset */
function option({ id, name, language }) {
  const text = language && language.split('-')[0] !== languageNow() ? `${name} (${languageName(language)})` : name;
  return make('option', { value: id, text });
}
