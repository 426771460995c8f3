/** The bar of controls and the mode selector: what can be pressed now, and how it is called. */

import { byId, setText } from './dom.js';
import { t } from './i18n.js';
import { CHOICES } from './mode.js';
import { isTalking } from './phase.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */

/** Swaps two buttons and keeps the keyboard's place. @param {HTMLElement} off @param {HTMLElement} on @param {boolean} isOn */
function showOnly(off, on, isOn) {
  const [shown, hidden] = isOn ? [on, off] : [off, on];
  const hadFocus = document.activeElement === hidden;
  shown.hidden = false;
  hidden.hidden = true;
  if (hadFocus) shown.focus({ preventScroll: true });
}

/** @param {HTMLElement} button @param {string} label @param {string} icon @param {boolean} isPressed */
function dress(button, label, icon, isPressed) {
  setText(/** @type {Element} */ (button.querySelector('span')), label);
  button.querySelector('use')?.setAttribute('href', `/static/icons.svg#${icon}`);
  button.setAttribute('aria-pressed', String(isPressed));
}

/** @param {Conversation} conversation */
export function showBar(conversation) {
  const { mode, isInCall } = conversation;
  showOnly(byId('call'), byId('hangup'), isInCall);
  const isChat = mode.now === 'chat';
  setText(byId('call').querySelector('span'), t(isChat ? 'bar.start_chat' : 'bar.call'));
  setText(byId('hangup').querySelector('span'), t(isChat ? 'bar.end_chat' : 'bar.hangup'));
  byId('interrupt').disabled = !conversation.canInterrupt;
  const { isHushed, isPaused } = conversation;
  dress(byId('hush'), t('bar.hush'), 'hush', isHushed);
  byId('hush').hidden = mode.isTurnBased;
  byId('hush').disabled = !isTalking(conversation.phase);
  dress(byId('pause'), t(isPaused ? 'bar.resume' : 'bar.pause'), isPaused ? 'play' : 'pause', isPaused);
  byId('pause').disabled = !isPaused && !isTalking(conversation.phase);
  showMicrophone(conversation);
  showTalk(conversation);
  const hasVideo = conversation.info?.engine?.video ?? true;
  dress(byId('camera-toggle'), t('bar.camera'), conversation.hasCamera ? 'camera' : 'camera-off', conversation.hasCamera);
  byId('camera-toggle').hidden = byId('camera-field').hidden = !hasVideo;
  byId('share').hidden = !hasVideo || !navigator.mediaDevices?.getDisplayMedia;
  byId('share').setAttribute('aria-pressed', String(Boolean(conversation.standIns.screen)));
}

/** @param {Conversation} conversation */
function showMicrophone({ mode, isMuted, isHeard, isInCall }) {
  const button = byId('mute');
  // In writing it is the way to speak; who pushes to talk is not heard otherwise.
  const isOffer = isInCall && !isHeard;
  const label = isOffer ? 'bar.microphone' : isMuted ? 'bar.unmute' : 'bar.mute';
  dress(button, t(label), isOffer || isMuted ? 'mic-off' : 'mic', !isOffer && isMuted);
  button.hidden = mode.now === 'turn_based' || (mode.now === 'chat' && !isInCall);
}

/** @param {Conversation} conversation */
function showTalk(conversation) {
  const { isHeld } = conversation.pushing;
  const button = byId('push-to-talk');
  button.hidden = !conversation.call || conversation.mode.now !== 'turn_based';
  button.disabled = !conversation.canTalk && !isHeld;
  button.setAttribute('aria-pressed', String(isHeld));
  setText(button.querySelector('span'), t(isHeld ? 'bar.let_go' : 'bar.hold'));
}

/** @typedef {import('./mode.js').Choice} Choice */

export class ModeView {
  /** @type {Map<Choice, any>} */ #buttons = new Map();

  /** @param {(choice: Choice) => void} onChoice */
  constructor(onChoice) {
    for (const choice of CHOICES) {
      const button = byId(`mode-${choice.replace('_', '-')}`);
      button.addEventListener('click', () => onChoice(choice));
      this.#buttons.set(choice, button);
    }
  }

  /**
   * @param {import('./mode.js').Mode} mode
   * @param {boolean} hasPicture something is shown to the model
   */
  show(mode, hasPicture) {
    for (const [choice, button] of this.#buttons) {
      const isSupported = mode.supported.includes(choice);
      button.setAttribute('aria-pressed', String(choice === mode.now));
      button.setAttribute('aria-busy', String(choice === mode.asked));
      button.disabled = !isSupported;
      button.title = isSupported ? t(`meaning.${choice}`) : t('mode.lacking');
    }
    setText(byId('mode-meaning'), t(hasPicture && mode.now === 'full_duplex' ? 'meaning.omni' : `meaning.${mode.now}`));
    /** @type {HTMLElement} */ (document.querySelector('main')).dataset.mode = mode.now;
  }
}
