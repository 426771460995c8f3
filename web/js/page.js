/** The call page: shows a conversation and binds the document's controls to it. */

import { DeviceTrouble, Refusal } from '../lib/omnicall.js';
import { AttachView } from './attachview.js';
import { CaptionView, transcriptOf } from './captionview.js';
import { Conversation } from './conversation.js';
import { expose } from './debug.js';
import { byId, clockText, setText } from './dom.js';
import { FiguresView } from './figures.js';
import { listenToKeys } from './keyboard.js';
import { readKey, saveKey, takeKeyFromAddress } from './key.js';
import { ModeView } from './modeview.js';
import { Notice } from './notice.js';
import { hintOf, isTalking, wordsOf } from './phase.js';
import { deviceLost, deviceProblem, endingProblem, serverAway } from './problems.js';
import { Selectors } from './selectors.js';
import { server } from './server.js';
import { startText } from './starting.js';
import { bindTalkButton } from './talkbutton.js';

const LOOK_FOR_SERVER_MS = 3000;
const LOOK_FOR_ENGINE_MS = 1000;
const COPIED_MS = 1500;

const conversation = new Conversation(byId('remote-audio'));
const notice = new Notice(byId('error'));
const figures = new FiguresView();
const attach = new AttachView();
const modes = new ModeView((mode) => conversation.chooseMode(mode));
const selectors = new Selectors(conversation.devices, conversation.audio, useChoice);
let searchTimer = 0;
/** The server was asked since the call got in line. */
let isLookedAt = false;
/** What is said under the state once a call is over. */
let epilogue = '';

// ---- showing ------------------------------------------------------------------------------------------------

function render() {
  const { phase, isInCall } = conversation;
  const state = byId('state');
  // Turns of the talk are heard anyway; a screen reader would talk over both sides.
  const isTurnOfTalk = isTalking(phase) && isTalking(state.dataset.state);
  state.setAttribute('aria-live', isTurnOfTalk ? 'off' : 'polite');
  document.body.dataset.phase = phase;
  state.dataset.state = phase;
  const { talk, isTurnBased, isMuted, hasCamera, pushing } = conversation;
  const starting = conversation.info?.starting ?? null;
  setText(state, wordsOf(phase, talk, isTurnBased, Boolean(starting)));
  const now = { talk, isTurnBased, isMuted, hasCamera, pushing, listenOnly: Boolean(conversation.call?.listenOnly), starting };
  setText(byId('hint'), phase === 'ended' ? epilogue : hintOf(phase, now));
  byId('clock').hidden = !conversation.connected_s;
  showOnly(byId('call'), byId('hangup'), isInCall);
  byId('interrupt').disabled = !conversation.canInterrupt;
  byId('send').disabled = attach.isBusy || !(byId('text').value.trim() || attach.file);
  byId('copy').disabled = conversation.captions.list().length === 0;
  modes.show(conversation.mode, now);
  renderMute(now.listenOnly);
  renderTalk(now.listenOnly);
  renderCamera();
}

/** Swaps two buttons and keeps the keyboard's place. @param {HTMLElement} off @param {HTMLElement} on @param {boolean} isOn */
function showOnly(off, on, isOn) {
  const [shown, hidden] = isOn ? [on, off] : [off, on];
  const hadFocus = document.activeElement === hidden;
  shown.hidden = false;
  hidden.hidden = true;
  if (hadFocus) shown.focus({ preventScroll: true });
}

/** @param {boolean} listenOnly */
function renderMute(listenOnly) {
  const isOff = listenOnly || conversation.isMuted;
  const label = listenOnly ? 'No mic' : conversation.isMuted ? 'Unmute' : 'Mute';
  dress(byId('mute'), label, isOff ? 'i-mic-off' : 'i-mic', conversation.isMuted);
  byId('mute').disabled = listenOnly;
  // Who pushes to talk is not heard otherwise.
  byId('mute').hidden = conversation.isTurnBased && !listenOnly;
}

/** @param {boolean} listenOnly */
function renderTalk(listenOnly) {
  const { isHeld } = conversation.pushing;
  const button = byId('push-to-talk');
  button.hidden = !conversation.call || !conversation.isTurnBased || listenOnly;
  button.disabled = !conversation.canTalk && !isHeld;
  button.setAttribute('aria-pressed', String(isHeld));
  setText(/** @type {Element} */ (button.querySelector('span')), isHeld ? 'Let go to send' : 'Hold to talk');
}

function renderCamera() {
  const hasVideo = conversation.info?.engine?.video ?? true;
  const { camera } = conversation.devices;
  dress(byId('camera-toggle'), 'Camera', camera ? 'i-camera' : 'i-camera-off', Boolean(camera));
  byId('camera-toggle').hidden = !hasVideo;
  byId('camera-field').hidden = !hasVideo;
  const canFlip = camera && (camera.getSettings().facingMode || conversation.devices.choices('videoinput').length > 1);
  byId('flip').hidden = !canFlip;
  const self = byId('self');
  if ((self.srcObject?.getVideoTracks()[0] ?? null) === camera) return;
  self.srcObject = camera ? new MediaStream([camera]) : null;
  self.hidden = !camera;
  // People expect a mirror, except from the camera that looks away from them.
  self.dataset.mirror = String(camera?.getSettings().facingMode !== 'environment');
  if (camera) self.play().catch(() => {});
}

/** @param {HTMLElement} button @param {string} label @param {string} icon @param {boolean} isPressed */
function dress(button, label, icon, isPressed) {
  setText(/** @type {Element} */ (button.querySelector('span')), label);
  button.querySelector('use')?.setAttribute('href', `#${icon}`);
  button.setAttribute('aria-pressed', String(isPressed));
}

function showLevels() {
  if (document.hidden) return;
  setLevel('level-user', conversation.isMuted && !conversation.isTurnBased ? 0 : conversation.userMeter.fraction);
  setLevel('push-to-talk', conversation.userMeter.fraction);
  setLevel('level-assistant', conversation.assistantMeter.fraction);
  setLevel('orb', conversation.phase === 'hearing' ? conversation.userMeter.fraction : conversation.assistantMeter.fraction);
}

/** @param {string} id @param {number} fraction */
function setLevel(id, fraction) {
  byId(id).style.setProperty('--level', fraction.toFixed(2));
}

// ---- the server ---------------------------------------------------------------------------------------------

async function findServer() {
  clearTimeout(searchTimer);
  try {
    conversation.info = await server.info();
  } catch (error) {
    if (!conversation.isInCall && !notice.shown) notice.show(serverAway());
    setText(byId('engine-text'), error instanceof Refusal && error.kind === 'away' ? 'The server cannot be reached.' : 'The server did not say.');
    searchTimer = window.setTimeout(findServer, LOOK_FOR_SERVER_MS);
    return;
  }
  if (['away', 'lost_away'].includes(notice.shown?.kind ?? '')) notice.hide();
  const { engine, name, version } = conversation.info;
  conversation.mode.support(engine?.modes);
  const { starting } = conversation.info;
  setText(byId('engine-label'), engine?.label || 'Engine');
  setText(byId('engine-text'), starting ? startText(starting) : engine?.description ?? '');
  byId('engine').dataset.starting = String(Boolean(starting));
  if (conversation.info.ready === false) searchTimer = window.setTimeout(findServer, LOOK_FOR_ENGINE_MS);
  const languages = (engine?.languages ?? []).map(languageName).join(', ');
  setText(byId('engine-more'), [languages, `${name ?? 'omnicall'} ${version ?? ''}`.trim()].filter(Boolean).join(' · '));
  // Who types the key already must not lose the place.
  if (byId('key-form').hidden) needsKey();
  render();
}

/** @param {string} tag as in `en` */
function languageName(tag) {
  try {
    return new Intl.DisplayNames(['en'], { type: 'language' }).of(tag) ?? tag;
  } catch {
    return tag;
  }
}

/** Asks for the key if there is none and the server wants one. */
function needsKey() {
  const isMissing = Boolean(conversation.info?.auth_required) && !readKey();
  if (isMissing) askKey();
  return isMissing;
}

/** @param {string} [refused] why the key there was is not enough */
function askKey(refused) {
  byId('key-form').hidden = false;
  setText(byId('key-text'), refused ?? 'This server asks for an access key. It was printed when the server was started.');
  byId('key').focus();
}

/** @param {import('../lib/endings.js').Ending} ending @param {number} length_s */
async function onEnded(ending, length_s) {
  epilogue = length_s ? `It lasted ${clockText(length_s)}.` : '';
  figures.hideQuality();
  render();
  if (ending.refusal?.kind === 'key') {
    askKey(readKey() ? 'The server did not accept this key. Please check it.' : undefined);
    return;
  }
  const isServerUp = ending.kind !== 'lost' || (await server.info().then(() => true, () => false));
  if (conversation.isInCall) return;
  const problem = endingProblem(ending, isServerUp);
  if (!problem) return;
  notice.show(problem);
  if (problem.kind === 'away' || problem.kind === 'lost_away') findServer();
}

// ---- controls -----------------------------------------------------------------------------------------------

/** @param {boolean} [listenOnly] */
function place(listenOnly = false) {
  if (conversation.isInCall) return false;
  notice.hide();
  if (needsKey()) return true;
  const isReachable = conversation.devices.available || listenOnly;
  if (isReachable) conversation.place({ listenOnly });
  else notice.show(deviceProblem(new DeviceTrouble('microphone', 'insecure')));
  return true;
}

function toggleMute() {
  if (!byId('mute').disabled && !byId('mute').hidden) conversation.mute(!conversation.isMuted);
}

function toggleCamera() {
  if (byId('camera-toggle').hidden) return;
  if (conversation.hasCamera) conversation.closeCamera();
  else conversation.openCamera();
}

function flip() {
  if (!byId('flip').hidden) conversation.openCamera('flip');
}

/** @param {'microphone'|'camera'} kind another one was selected */
function useChoice(kind) {
  if (kind === 'camera' && conversation.hasCamera) conversation.openCamera();
  if (kind === 'microphone' && conversation.call && !conversation.call.listenOnly) conversation.openMicrophone();
}

/** @param {Event} event */
async function onWrite(event) {
  event.preventDefault();
  const box = byId('text');
  const text = box.value.trim();
  const { file } = attach;
  // While the browser asks for the microphone there is no call yet that could carry it.
  if (!(text || file) || attach.isBusy || conversation.isAsking || (!conversation.isInCall && needsKey())) return;
  box.value = '';
  notice.hide();
  if (!file) {
    conversation.write(text);
    render();
    return;
  }
  const isSent = await conversation.show(file, text, (fraction) => {
    attach.progress(fraction);
    render();
  });
  if (!isSent && !box.value) box.value = text;
  attach.done(isSent);
}

async function copyTranscript() {
  const button = byId('copy');
  try {
    await navigator.clipboard.writeText(transcriptOf(conversation.captions.list()));
    setText(button, 'Copied');
  } catch {
    setText(button, 'Not allowed');
  }
  window.setTimeout(() => setText(button, 'Copy text'), COPIED_MS);
}

function bindControls() {
  byId('call').addEventListener('click', () => place());
  byId('hangup').addEventListener('click', () => conversation.hangUp());
  byId('mute').addEventListener('click', toggleMute);
  byId('camera-toggle').addEventListener('click', toggleCamera);
  byId('flip').addEventListener('click', flip);
  byId('interrupt').addEventListener('click', () => conversation.interrupt());
  bindTalkButton(byId('push-to-talk'), conversation);
  byId('unblock').addEventListener('click', () => conversation.play());
  byId('copy').addEventListener('click', copyTranscript);
  byId('write').addEventListener('submit', onWrite);
  byId('text').addEventListener('input', render);
  attach.addEventListener('change', render);
  byId('key-form').addEventListener('submit', (/** @type {Event} */ event) => {
    event.preventDefault();
    saveKey(byId('key').value);
    byId('key').value = '';
    byId('key-form').hidden = true;
    byId('call').focus();
  });
  notice.addEventListener('action', (event) => {
    const { id } = /** @type {CustomEvent} */ (event).detail;
    notice.hide();
    if (id !== 'dismiss') place(id === 'listen');
  });
  listenToKeys({
    call: () => place(),
    hangUp: () => conversation.hangUp(),
    hold: () => {
      const { canTalk } = conversation;
      conversation.hold();
      return canTalk;
    },
    release: () => conversation.release(),
    mute: toggleMute,
    camera: toggleCamera,
    flip,
    interrupt: () => conversation.interrupt(),
    write: () => byId('text').focus(),
  }, byId('shortcuts'));
  // Not `beforeunload`, which phones do not fire.
  window.addEventListener('pagehide', () => conversation.call?.leave());
}

function bindConversation() {
  new CaptionView(byId('captions'), byId('captions-empty'), conversation.captions);
  const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
    conversation.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail));
  on('change', () => {
    // Who waits may wait for an engine that died and starts again.
    if (conversation.phase === 'queued' && conversation.info?.ready !== false && !isLookedAt) findServer();
    isLookedAt = conversation.phase === 'queued';
    render();
  });
  on('levels', showLevels);
  on('figures', (now) => {
    figures.show(now, conversation.talk.latency);
    setText(byId('clock'), clockText(conversation.connected_s));
  });
  on('blocked', ({ isBlocked }) => { byId('unblock').hidden = !isBlocked; });
  on('trouble', (trouble) => notice.show(deviceProblem(trouble)));
  on('lost', ({ kind }) => notice.show(deviceLost(kind)));
  on('ended', ({ ending, length_s }) => { onEnded(ending, length_s); });
}

takeKeyFromAddress();
selectors.useSpeaker();
bindConversation();
bindControls();
expose(conversation);
render();
conversation.devices.refresh();
if (!conversation.devices.available) notice.show(deviceProblem(new DeviceTrouble('microphone', 'insecure')));
findServer();
