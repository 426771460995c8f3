/**
 * Cuts the sounds of a call apart: what the user said, and what of each answer was heard. Both stay in this browser.
 *
 * Events: `sound` {id, samples, rate}: `id` is a user's item, or a response.
 */

import { SoundTape, isSilent } from './soundtape.js';

/** Speech is noticed some time after it began. */
const LEAD_S = 0.5;
const TAIL_S = 0.3;
/** The sound is on its way through the jitter buffer when its event arrives. */
const ANSWER_LEAD_S = 0.1;
const ANSWER_TAIL_S = 0.4;
const SHORTEST_S = 0.25;

/** @typedef {'user'|'assistant'} Side */

export class Utterances extends EventTarget {
  /** @type {Record<Side, SoundTape|null>} */ #tapes = { user: null, assistant: null };
  #rate = 0;
  /** Where the user's speech began on the tape. @type {{from_s: number, audio_start_ms: number}|null} */ #spoken = null;
  /** Cut when the talk button was let go; its item is named later. @type {Int16Array[]} */ #unnamed = [];
  /** @type {{id: string, from_s: number}|null} */ #answer = null;

  /** @param {Side} side @param {number} rate a new call begins, or another microphone is used */
  begin(side, rate) {
    this.#rate = rate;
    this.#tapes[side] = new SoundTape(rate, side === 'user' ? {} : { most_s: 300 });
    if (side === 'user') this.#spoken = null;
    else this.#answer = null;
  }

  /** @param {Side} side @param {Int16Array} block */
  push(side, block) {
    this.#tapes[side]?.push(block);
  }

  end() {
    this.#tapes = { user: null, assistant: null };
    this.#spoken = this.#answer = null;
    this.#unnamed = [];
  }

  /** The talk button. @param {boolean} isHeld */
  held(isHeld) {
    const tape = this.#tapes.user;
    if (!tape) return;
    if (isHeld) {
      this.#hold(tape, 0, 0);
    } else if (this.#spoken) {
      this.#unnamed.push(tape.cut(this.#spoken.from_s, tape.passed_s));
      this.#letGo(tape);
    }
  }

  /** What was said while the talk button was held is not sent. */
  dropped() {
    if (this.#tapes.user) this.#letGo(this.#tapes.user);
  }

  /** @param {any} event of the server @param {boolean} isByHand the talk button decides what is a turn */
  apply(event, isByHand) {
    const tape = this.#tapes.user;
    switch (event.type) {
      case 'input_audio_buffer.speech_started':
        if (tape && !isByHand) this.#hold(tape, LEAD_S, Number(event.audio_start_ms) || 0);
        break;
      case 'input_audio_buffer.speech_stopped':
        if (tape && this.#spoken && !isByHand) this.#cutSpeech(tape, this.#spoken, event);
        break;
      case 'input_audio_buffer.committed':
        if (isByHand) this.#tell(event.item_id, this.#unnamed.shift());
        break;
      case 'output_audio_buffer.started':
        this.#beginAnswer(String(event.response_id));
        break;
      case 'output_audio_buffer.stopped':
      case 'output_audio_buffer.cleared':
        this.#endAnswer(event.response_id);
        break;
      default:
    }
  }

  /** @param {SoundTape} tape @param {number} lead_s @param {number} audio_start_ms */
  #hold(tape, lead_s, audio_start_ms) {
    this.#spoken = { from_s: tape.passed_s - lead_s, audio_start_ms };
    tape.isHeld = true;
  }

  /** @param {SoundTape} tape */
  #letGo(tape) {
    this.#spoken = null;
    tape.isHeld = false;
  }

  /** @param {SoundTape} tape @param {{from_s: number, audio_start_ms: number}} spoken @param {any} event */
  #cutSpeech(tape, { from_s, audio_start_ms }, event) {
    const length_s = (Number(event.audio_end_ms) - audio_start_ms) / 1000;
    const to_s = length_s > 0 ? Math.min(tape.passed_s, from_s + LEAD_S + length_s + TAIL_S) : tape.passed_s;
    this.#tell(event.item_id, tape.cut(from_s, to_s));
    this.#letGo(tape);
  }

  /** @param {string} id */
  #beginAnswer(id) {
    const tape = this.#tapes.assistant;
    if (!tape) return;
    this.#answer = { id, from_s: tape.passed_s - ANSWER_LEAD_S };
    tape.isHeld = true;
  }

  /** @param {unknown} id */
  #endAnswer(id) {
    const tape = this.#tapes.assistant;
    const answer = this.#answer;
    if (!tape || !answer || answer.id !== id) return;
    this.#answer = null;
    // Its last sound is still on its way.
    setTimeout(() => {
      this.#tell(answer.id, tape.cut(answer.from_s, tape.passed_s));
      if (!this.#answer) tape.isHeld = false;
    }, ANSWER_TAIL_S * 1000);
  }

  /** @param {unknown} id @param {Int16Array|undefined} samples */
  #tell(id, samples) {
    if (typeof id !== 'string' || !samples || samples.length < SHORTEST_S * this.#rate || isSilent(samples)) return;
    this.dispatchEvent(new CustomEvent('sound', { detail: { id, samples, rate: this.#rate } }));
  }
}
