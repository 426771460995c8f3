/** What the page says about where the call stands. */

import { waitText } from './starting.js';

/** @typedef {'idle'|'permission'|'connecting'|'queued'|'listening'|'hearing'|'thinking'|'speaking'|'interrupted'|'reconnecting'|'ended'} Phase */

/** @typedef {Pick<import('../lib/pushtotalk.js').PushToTalk, 'isHeld'|'isOpen'|'wasTooShort'>} Pushing to talk */

/** @type {Record<Phase, string>} */
const WORDS = {
  idle: 'Ready to call',
  permission: 'Allow the microphone…',
  connecting: 'Connecting…',
  queued: 'Waiting in line',
  listening: 'Listening',
  hearing: 'Hearing you',
  thinking: 'Thinking…',
  speaking: 'Speaking',
  interrupted: 'Interrupted',
  reconnecting: 'Reconnecting…',
  ended: 'Call ended',
};

const YOUR_TURN = 'Your turn';

/** @type {Partial<Record<Phase, string>>} */
const HINTS = {
  idle: 'Press Call and speak, or write a message.',
  permission: 'The browser is asking whether this page may hear you.',
  interrupted: 'Go on, it is your turn.',
  reconnecting: 'The network dropped out. Please stay, this often mends itself.',
};

/**
 * @param {Object} now
 * @param {{state: import('../lib/omnicall.js').CallState}|null} now.call
 * @param {import('./talk.js').Talk} now.talk
 * @param {boolean} now.isAsking for a device, before a call
 * @param {boolean} now.wasInCall
 * @returns {Phase}
 */
export function phaseOf({ call, talk, isAsking, wasInCall }) {
  if (isAsking) return 'permission';
  if (!call) return wasInCall ? 'ended' : 'idle';
  if (call.state === 'ended' || call.state === 'reconnecting') return call.state;
  if (call.state !== 'connected' || talk.turn === 'starting') return 'connecting';
  return talk.turn;
}

/**
 * @param {Phase} phase
 * @param {import('./talk.js').Talk} talk
 * @param {boolean} isTurnBased
 * @param {boolean} [isStarting] no engine is ready
 */
export function wordsOf(phase, talk, isTurnBased, isStarting = false) {
  if (phase === 'idle' && isStarting) return 'Not ready yet';
  // Nothing is listened to until the user takes the word.
  if (phase === 'listening' && isTurnBased) return YOUR_TURN;
  if (phase !== 'queued' || !talk.queue.position) return WORDS[phase];
  return `${WORDS.queued}: place ${talk.queue.position}`;
}

/**
 * @param {Phase} phase
 * @param {Object} now
 * @param {import('./talk.js').Talk} now.talk
 * @param {boolean} now.isTurnBased
 * @param {boolean} now.isMuted
 * @param {boolean} now.listenOnly
 * @param {boolean} now.hasCamera
 * @param {Pushing} now.pushing
 * @param {import('./starting.js').Starting|null} [now.starting] while no engine is ready
 */
export function hintOf(phase, { talk, isTurnBased, isMuted, listenOnly, hasCamera, pushing, starting }) {
  if (phase === 'idle' && starting) return 'A call waits in line until the engine is ready.';
  if (phase === 'queued' && starting) return waitText(starting);
  if (phase === 'queued') return talk.queue.eta_s ? `About ${roundedWait(talk.queue.eta_s)}. The call starts by itself.` : 'The call starts by itself.';
  if (HINTS[phase]) return HINTS[phase];
  if (phase === 'connecting' || phase === 'ended') return '';
  if (listenOnly) return 'Without microphone: write, and hear the answer.';
  if (isTurnBased) return pushing.isHeld ? 'Let go to get the answer.' : turnHint(phase, pushing.wasTooShort);
  if (isMuted) return 'You are muted.';
  return hasCamera && phase === 'listening' ? 'It can see your camera.' : '';
}

/** @param {Phase} phase @param {boolean} wasTooShort */
function turnHint(phase, wasTooShort) {
  if (phase !== 'listening') return '';
  return wasTooShort ? 'Hold it for as long as you speak.' : 'Hold to talk, or write.';
}

/** @param {number} seconds */
function roundedWait(seconds) {
  if (seconds < 90) return `${Math.max(5, Math.ceil(seconds / 5) * 5)} seconds`;
  return `${Math.ceil(seconds / 60)} minutes`;
}

/** @param {Phase} phase */
export function isInCall(phase) {
  return phase !== 'idle' && phase !== 'ended';
}

/** @param {string} phase @returns {boolean} whether the two sides are taking turns */
export function isTalking(phase) {
  return ['listening', 'hearing', 'thinking', 'speaking', 'interrupted'].includes(phase);
}
