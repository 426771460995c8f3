/** What the stage says: whose turn it is, for how long, and what can be done about it. */

import { byId, clockText, setText } from './dom.js';
import { t } from './i18n.js';
import { hintOf, isTalking, wordsOf } from './phase.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */

/** @param {string} id @param {number} fraction */
function setLevel(id, fraction) {
  byId(id).style.setProperty('--level', fraction.toFixed(2));
}

export class StageView {
  /** How long the call was that is over. */
  #length_s = 0;

  /** @param {Conversation} conversation */
  constructor(conversation) {
    this.conversation = conversation;
    conversation.addEventListener('levels', () => this.#showLevels());
    conversation.addEventListener('figures', () => this.#showClock());
    conversation.addEventListener('ended', (event) => {
      this.#length_s = /** @type {CustomEvent} */ (event).detail.length_s;
    });
  }

  show() {
    const { phase, talk, mode, isMuted, isHushed, pushing, silence, picture, info } = this.conversation;
    const state = byId('state');
    // Turns of the talk are heard anyway; a screen reader would talk over both sides.
    state.setAttribute('aria-live', isTalking(phase) && isTalking(state.dataset.state) ? 'off' : 'polite');
    document.body.dataset.phase = phase;
    state.dataset.state = phase;
    const starting = info?.starting ?? null;
    setText(state, wordsOf(phase, talk, mode.isTurnBased, Boolean(starting)));
    const hasPicture = Boolean(picture);
    const wait_s = this.conversation.wait_s;
    const hint = hintOf(phase, { talk, mode: mode.now, isMuted, isHushed, pushing, hasPicture, starting, wait_s, isMicrophoneSilent: silence.isSilent });
    setText(byId('hint'), phase === 'ended' && this.#length_s ? t('hint.ended', { time: clockText(this.#length_s) }) : hint);
    this.#showClock();
  }

  #showClock() {
    const { connected_s } = this.conversation;
    byId('clock').hidden = !connected_s;
    byId('clock').setAttribute('aria-label', t('stage.clock'));
    setText(byId('clock'), clockText(connected_s));
  }

  #showLevels() {
    if (document.hidden) return;
    const { userMeter, assistantMeter, isMuted, isTurnBased, phase } = this.conversation;
    const user = isMuted && !isTurnBased ? 0 : userMeter.fraction;
    for (const id of ['level-user', 'push-to-talk', 'mute']) setLevel(id, user);
    setLevel('orb', phase === 'hearing' ? userMeter.fraction : assistantMeter.fraction);
  }
}
