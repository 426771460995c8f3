/** What the stage says: whose turn it is, for how long, and what can be done about it. */

import { qualityOf } from '../lib/stats.js';
import { byId, clockText, setText } from './dom.js';
import { t } from './i18n.js';
import { hintOf, isTalking, recordedSign, wordsOf } from './phase.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */

/** What each bar shows, so that nothing is painted anew where nothing moved. @type {Map<string, string>} */
const levels = new Map();

/** @param {string} id @param {number} fraction */
function setLevel(id, fraction) {
  const level = (Math.round(fraction * 25) / 25).toFixed(2);
  if (levels.get(id) === level) return;
  levels.set(id, level);
  byId(id).style.setProperty('--level', level);
}

export class StageView {
  /** How long the call was that is over. */
  #length_s = 0;

  /** @param {Conversation} conversation */
  constructor(conversation) {
    this.conversation = conversation;
    conversation.addEventListener('levels', () => this.#showLevels());
    conversation.addEventListener('figures', (event) => {
      this.#showClock();
      this.#showQuality(/** @type {CustomEvent} */ (event).detail);
    });
    conversation.addEventListener('ended', (event) => {
      this.#length_s = /** @type {CustomEvent} */ (event).detail.length_s;
      byId('quality').hidden = true;
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
    const { wait_s, kept_s } = this.conversation;
    const hint = hintOf(phase, { talk, mode: mode.now, isMuted, isHushed, pushing, hasPicture, starting, wait_s, kept_s, isMicrophoneSilent: silence.isSilent });
    setText(byId('hint'), phase === 'ended' && this.#length_s ? t('hint.ended', { time: clockText(this.#length_s) }) : hint);
    const sign = recordedSign(this.conversation.call?.recorded ?? '', info);
    setText(byId('recorded'), sign);
    byId('recorded').hidden = !sign;
    // Nice to know: a small picture is not covered with it.
    byId('hint').toggleAttribute('data-aside', hint === t('hint.seen'));
    this.#showClock();
  }

  #showClock() {
    const { connected_s } = this.conversation;
    byId('clock').hidden = !connected_s;
    byId('clock').setAttribute('aria-label', t('stage.clock'));
    setText(byId('clock'), clockText(connected_s));
  }

  /** One sign for all figures. @param {import('../lib/stats.js').Figures} now */
  #showQuality(now) {
    const quality = qualityOf(now);
    const sign = byId('quality');
    sign.hidden = false;
    sign.dataset.quality = quality;
    sign.title = t(`quality.${quality}`);
    sign.setAttribute('aria-label', sign.title);
  }

  #showLevels() {
    if (document.hidden) return;
    const { userMeter, assistantMeter, isMuted, isTurnBased, phase } = this.conversation;
    const user = isMuted && !isTurnBased ? 0 : userMeter.fraction;
    for (const id of ['level-user', 'push-to-talk', 'mute']) setLevel(id, user);
    setLevel('orb', phase === 'hearing' ? userMeter.fraction : assistantMeter.fraction);
  }
}
