/** The settings of answers: shown as far as the engine honours them, from `Wishes` and back. */

import { byId, make, setText } from './dom.js';
import { numberText, t, tongue } from './i18n.js';
import { LENGTHS, NUMBERS, SWITCHES, TURN_NUMBERS, lengthWordOf } from './wishes.js';

/** @typedef {import('./wishes.js').Wishes} Wishes */

export class WishView {
  /** @type {(name: string) => boolean} */ #isHonoured = () => false;
  #takesTurns = false;
  #wishes;

  /** @param {Wishes} wishes */
  constructor(wishes) {
    this.#wishes = wishes;
    byId('wish-length').addEventListener('change', () => this.#chooseLength());
    byId('wish-hd').addEventListener('change', () => wishes.change({ hd: byId('wish-hd').checked }));
    byId('wish-reset').addEventListener('click', () => {
      const { instructions, voice, prompt_voice, written, media } = wishes.now;
      wishes.replace({ instructions, voice, prompt_voice, written, media });
    });
    wishes.addEventListener('change', () => this.show());
    tongue.addEventListener('change', () => this.#build());
    this.#build();
  }

  /** @param {(name: string) => boolean} isHonoured by the engine that answers now */
  support(isHonoured) {
    this.#isHonoured = isHonoured;
    this.#build();
  }

  /** @param {string} mode of which the settings are shown */
  fit(mode) {
    this.#takesTurns = mode === 'half_duplex';
    this.#showSection();
  }

  #chooseLength() {
    const word = byId('wish-length').value;
    if (word in LENGTHS) this.#wishes.change({ max_output_tokens: LENGTHS[word] ?? undefined });
  }

  #build() {
    const numbers = NUMBERS.filter(({ name }) => this.#isHonoured(name)).map((number) => this.#numberRow(number));
    const switches = SWITCHES.filter((name) => this.#isHonoured(name)).map((name) => this.#switchRow(name));
    byId('wish-more').replaceChildren(...switches, ...numbers);
    byId('wish-turns').replaceChildren(...TURN_NUMBERS.map((number) => this.#numberRow(number)));
    byId('wish-advanced').hidden = !numbers.length && !switches.length;
    byId('wish-length-field').hidden = !this.#isHonoured('max_output_tokens');
    byId('wish-hd-field').hidden = !this.#isHonoured('max_image_slices');
    this.#showSection();
    this.show();
  }

  #showSection() {
    byId('wish-turns').hidden = !this.#takesTurns || !this.#isHonoured('turn_detection');
    byId('wishes').hidden = ['wish-advanced', 'wish-length-field', 'wish-hd-field', 'wish-turns'].every((id) => byId(id).hidden);
  }

  /** @param {typeof NUMBERS[number]} number */
  #numberRow({ name, min, max, step }) {
    const box = make('input', { type: 'number', id: `wish-${name}`, min, max, step, inputmode: 'decimal', placeholder: t('wish.default'), 'aria-describedby': `wish-${name}-about` });
    box.addEventListener('change', () => {
      const value = box.valueAsNumber;
      this.#wishes.change({ [name]: Number.isFinite(value) ? Math.min(max, Math.max(min, value)) : undefined });
    });
    const about = make('span', { class: 'faint', id: `wish-${name}-about`, text: t(`wish.${name}.about`, { min: numberText(min, 0), max: numberText(max, 0) }) });
    return make('div', { class: 'wish' }, make('label', { for: `wish-${name}`, text: t(`wish.${name}`) }), box, about);
  }

  /** @param {keyof import('./wishes.js').Wish} name */
  #switchRow(name) {
    const box = make('input', { type: 'checkbox', id: `wish-${name}` });
    box.addEventListener('change', () => this.#wishes.change({ [name]: box.checked || undefined }));
    return make('label', { class: 'check' }, box, ' ', make('span', { text: t(`wish.${name}`) }));
  }

  show() {
    const { now } = this.#wishes;
    for (const { name } of [...NUMBERS, ...TURN_NUMBERS]) {
      const box = /** @type {HTMLInputElement|null} */ (document.getElementById(`wish-${name}`));
      if (box) box.value = now[name] === undefined ? '' : String(now[name]);
    }
    for (const name of SWITCHES) {
      const box = /** @type {HTMLInputElement|null} */ (document.getElementById(`wish-${name}`));
      if (box) box.checked = Boolean(now[name]);
    }
    const word = lengthWordOf(now.max_output_tokens);
    const own = byId('wish-length-own');
    own.hidden = Boolean(word);
    setText(own, t('wish.length.own', { tokens: numberText(now.max_output_tokens ?? 0) }));
    byId('wish-length').value = word || 'own';
    byId('wish-hd').checked = Boolean(now.hd);
  }
}
