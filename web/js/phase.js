/** What the page says about where the call stands. */

import { clockText } from './dom.js';
import { numberText, t } from './i18n.js';
import { waitText } from './engine.js';

/** @typedef {'idle'|'permission'|'connecting'|'queued'|'listening'|'hearing'|'thinking'|'speaking'|'interrupted'|'paused'|'reconnecting'|'ended'} Phase */

/** @typedef {Pick<import('../lib/pushtotalk.js').PushToTalk, 'isHeld'|'isOpen'|'wasTooShort'>} Pushing to talk */

/**
 * @param {Object} now
 * @param {{state: import('../lib/omnicall.js').CallState}|null} now.call
 * @param {import('./talk.js').Talk} now.talk
 * @param {boolean} now.isAsking for a device, before a call
 * @param {boolean} now.wasInCall
 * @param {boolean} [now.isPaused]
 * @returns {Phase}
 */
export function phaseOf({ call, talk, isAsking, wasInCall, isPaused }) {
  if (isAsking) return 'permission';
  if (!call) return wasInCall ? 'ended' : 'idle';
  if (call.state === 'ended' || call.state === 'reconnecting') return call.state;
  if (call.state !== 'connected' || talk.turn === 'starting') return 'connecting';
  if (isPaused && talk.turn !== 'queued') return 'paused';
  return talk.turn;
}

/**
 * @param {Phase} phase
 * @param {import('./talk.js').Talk} talk
 * @param {boolean} isTurnBased
 * @param {boolean} [isStarting] no engine is ready
 */
export function wordsOf(phase, talk, isTurnBased, isStarting = false) {
  if (phase === 'idle' && isStarting) return t('phase.starting');
  // Nothing is listened to until the user takes the word.
  if (phase === 'listening' && isTurnBased) return t('phase.your_turn');
  if (phase !== 'queued' || !talk.queue.position) return t(`phase.${phase}`);
  return t('phase.place', { place: numberText(talk.queue.position) });
}

/** Phases whose hint is always the same. */
const HINTED = ['idle', 'permission', 'interrupted', 'reconnecting'];

/**
 * @param {Phase} phase
 * @param {Object} now
 * @param {import('./talk.js').Talk} now.talk
 * @param {import('./mode.js').Choice} now.mode
 * @param {boolean} now.isMuted
 * @param {boolean} now.isHushed
 * @param {boolean} now.isMicrophoneSilent nothing at all came from it for seconds
 * @param {boolean} now.hasPicture
 * @param {Pushing} now.pushing
 * @param {number} [now.wait_s] what is left of the wait in the queue
 * @param {number} [now.kept_s] for how long a pause still keeps the place
 * @param {import('./engine.js').Starting|null} [now.starting] while no engine is ready
 */
export function hintOf(phase, { talk, mode, isMuted, isHushed, isMicrophoneSilent, hasPicture, pushing, wait_s = talk?.queue.eta_s, kept_s = 0, starting }) {
  if (phase === 'idle' && starting) return t('hint.starting');
  if (phase === 'queued' && starting) return waitText(starting);
  if (phase === 'queued') return queueHint(wait_s);
  if (phase === 'idle' && mode === 'chat') return t('hint.idle_chat');
  if (phase === 'paused') return kept_s ? t('hint.paused', { time: clockText(kept_s) }) : t('hint.paused_long');
  if (HINTED.includes(phase)) return t(`hint.${phase}`);
  if (phase === 'connecting' || phase === 'ended') return '';
  if (mode === 'chat') return t('hint.chat');
  if (mode === 'turn_based') return pushing.isHeld ? t('hint.let_go') : turnHint(phase, pushing.wasTooShort);
  if (isMuted) return t('hint.muted');
  if (isMicrophoneSilent) return t('hint.silent');
  if (isHushed) return t('hint.hushed');
  return hasPicture && phase === 'listening' ? t('hint.seen') : '';
}

/** @param {Phase} phase @param {boolean} wasTooShort */
function turnHint(phase, wasTooShort) {
  if (phase !== 'listening') return '';
  return t(wasTooShort ? 'hint.too_short' : 'hint.turn');
}

/** @param {number} wait_s 0: the server does not say */
function queueHint(wait_s) {
  if (!wait_s) return t('hint.queued');
  if (wait_s < 3) return t('hint.queued_soon');
  if (wait_s < 90) return t('hint.queued_seconds', { seconds: numberText(Math.ceil(wait_s)) });
  return t('hint.queued_minutes', { minutes: numberText(Math.ceil(wait_s / 60)) });
}

/** @param {Phase} phase */
export function isInCall(phase) {
  return phase !== 'idle' && phase !== 'ended';
}

/** @param {string} phase @returns {boolean} whether the two sides are taking turns */
export function isTalking(phase) {
  return ['listening', 'hearing', 'thinking', 'speaking', 'interrupted'].includes(phase);
}

/**
 * @param {import('../lib/omnicall.js').OmnicallCall['recorded']} told of the call that is open
 * @param {Pick<import('../lib/server.js').Info, 'recorded'|'recorded_pictures'>|null} info of the server, which may be old
 * @returns {string} what of calls is kept; '' for nothing
 */
export function recordedSign(told, info) {
  if (told) return t(told === 'recorded_pictures' ? 'recorded.now_pictures' : 'recorded.now');
  if (!info?.recorded) return '';
  return t(info.recorded_pictures ? 'recorded.sign_pictures' : 'recorded.sign');
}
