/** The call page: shows a conversation and binds the document's controls to it. */

import { DeviceTrouble } from '../lib/omnicall.js';
import { KeyForm, askedInAddress, readKey, server, takeKeyFromAddress } from './access.js';
import { ModeView, showBar } from './barview.js';
import { transcriptOf } from './captionview.js';
import { Composer } from './composer.js';
import { Conversation } from './conversation.js';
import { expose } from './debug.js';
import { byId, setText } from './dom.js';
import { bindLanguageButton, t, tongue } from './i18n.js';
import { bindTalkButton, listenToKeys } from './keyboard.js';
import { memory } from './memory.js';
import { audioContext } from './meters.js';
import { Notice } from './notice.js';
import { Keeping } from './keeping.js';
import { Panels } from './panels.js';
import { chime, keepShell } from './phone.js';
import { PictureView, Subtitles } from './pictureview.js';
import { deviceLost, deviceProblem, endingProblem, serverAway } from './problems.js';
import { ServerWatch, showExamples } from './serverwatch.js';
import { StageView } from './stageview.js';

const COPIED_MS = 1500;
const COUNT_EVERY_MS = 1000;

const conversation = new Conversation(byId('remote-audio'));
const notice = new Notice(byId('error'));
const panels = new Panels(byId('talk'));
const modes = new ModeView((choice) => conversation.chooseMode(choice));
const stage = new StageView(conversation);
const picture = new PictureView(flip);
/** @type {import('./selectors.js').Selectors|null} */ let selectors = null;
const keyForm = new KeyForm(() => byId('call').focus());
const composer = new Composer(conversation, mayBegin);
const keeping = new Keeping(conversation, (caption) => composer.edit(caption), () => panels.close());
/** Loaded with the panel that shows it. @type {import('./tuning.js').Tuning|null} */ let tuning = null;
const watch = new ServerWatch();
/** The server was asked since the call got in line. */
let isLookedAt = false;

/** @returns {boolean} whether a call can be placed; says why not */
function mayBegin() {
  notice.hide();
  return !needsKey();
}

function render() {
  const { devices, captions, info } = conversation;
  stage.show();
  showBar(conversation);
  modes.show(conversation.mode, Boolean(conversation.picture));
  const { camera } = devices;
  const canFlip = camera && (camera.getSettings().facingMode || devices.choices('videoinput').length > 1);
  picture.show(conversation.picture, Boolean(canFlip));
  composer.show();
  byId('copy').disabled = captions.list().length === 0;
  tuning?.show();
  byId('fresh').disabled = captions.list().length === 0;
  byId('aloud').setAttribute('aria-pressed', String(!conversation.wishes.now.written));
  showExamples(info, Boolean(conversation.picture), (text) => composer.say(text));
}

// ---- the server ---------------------------------------------------------------------------------------------

/** @param {import('../lib/server.js').Info} info */
function onServer(info) {
  conversation.info = info;
  if (['away', 'lost_away'].includes(notice.shown?.kind ?? '')) notice.hide();
  conversation.mode.support(info.engine?.modes);
  tuning?.offer();
  // Who types the key already must not lose the place.
  if (!keyForm.isOpen) needsKey();
  render();
}

/** Asks for the key if there is none and the server wants one. */
function needsKey() {
  const isMissing = Boolean(conversation.info?.auth_required) && !readKey();
  if (isMissing) keyForm.ask();
  return isMissing;
}

/** @param {import('../lib/endings.js').Ending} ending */
async function onEnded(ending) {
  render();
  if (ending.refusal?.kind === 'key') {
    keyForm.ask();
    return;
  }
  const isServerUp = ending.kind !== 'lost' || (await server.info().then(() => true, () => false));
  if (conversation.isInCall) return;
  const tell = () => endingProblem(ending, isServerUp);
  const problem = tell();
  if (!problem) return;
  notice.show(/** @type {() => import('./problems.js').Problem} */ (tell));
  if (problem.kind === 'away' || problem.kind === 'lost_away') watch.look();
}

// ---- controls -----------------------------------------------------------------------------------------------

/** @param {boolean} [listenOnly] @param {string} [resume] as of `Conversation.place` */
function place(listenOnly = conversation.mode.chosen === 'chat', resume = '') {
  if (conversation.isInCall) return false;
  notice.hide();
  if (needsKey()) return true;
  const isReachable = conversation.devices.available || listenOnly;
  if (isReachable) conversation.place({ listenOnly, resume });
  else showInsecure();
  return true;
}

function showInsecure() {
  notice.show(() => deviceProblem(new DeviceTrouble('microphone', 'insecure')));
}

function toggleMute() {
  if (byId('mute').hidden) return;
  if (conversation.isInCall && !conversation.isHeard) conversation.speak();
  else conversation.mute(!conversation.isMuted);
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
  if (kind === 'microphone' && conversation.isHeard) conversation.openMicrophone();
}

async function copyTranscript() {
  const button = byId('copy');
  try {
    await navigator.clipboard.writeText(transcriptOf(conversation.captions.list()));
    setText(button, t('talk.copied'));
  } catch {
    setText(button, t('talk.not_copied'));
  }
  window.setTimeout(() => setText(button, t('talk.copy')), COPIED_MS);
}

/** Closes what lies over the page; a first Escape does no more. */
function leave() {
  const isAny = panels.isOpen || picture.isFullscreen;
  panels.close();
  picture.leaveFullscreen();
  return isAny;
}

async function loadSelectors() {
  const { Selectors } = await import('./selectors.js');
  selectors ??= new Selectors(conversation.devices, conversation.audio, useChoice);
  selectors.useSpeaker();
}

/** What only a panel shows is loaded when it is first opened. */
function bindPanels() {
  byId('settings').addEventListener('open', async () => {
    const panel = byId('settings');
    panel.ariaBusy = 'true';
    loadSelectors();
    const { Tuning } = await import('./tuning.js');
    tuning = new Tuning(conversation, mayBegin);
    tuning.offer();
    panel.ariaBusy = 'false';
  }, { once: true });
  byId('figures').addEventListener('open', async () => {
    const [{ FiguresView }, { ModelView }] = await Promise.all([import('./figures.js'), import('./modelview.js')]);
    const figures = new FiguresView();
    const model = new ModelView();
    const show = () => {
      figures.show(/** @type {import('../lib/stats.js').Figures} */ (conversation.figures), conversation.talk.latency);
      model.show(conversation.model);
    };
    conversation.addEventListener('figures', show);
    if (conversation.model.recent.length) show();
  }, { once: true });
}

function bindControls() {
  byId('call').addEventListener('click', () => place());
  byId('hangup').addEventListener('click', () => conversation.hangUp());
  byId('mute').addEventListener('click', toggleMute);
  byId('camera-toggle').addEventListener('click', toggleCamera);
  byId('interrupt').addEventListener('click', () => conversation.interrupt());
  bindTalkButton(byId('push-to-talk'), conversation);
  byId('hush').addEventListener('click', () => conversation.toggleHush());
  byId('pause').addEventListener('click', () => conversation.togglePause());
  byId('unblock').addEventListener('click', () => conversation.play());
  byId('copy').addEventListener('click', copyTranscript);
  const chimes = byId('chime');
  chimes.checked = memory.read('chime') !== 'off';
  chimes.addEventListener('change', () => memory.write('chime', chimes.checked ? 'on' : 'off'));
  notice.addEventListener('action', (event) => {
    const { id } = /** @type {CustomEvent} */ (event).detail;
    notice.hide();
    if (id === 'call') place();
    if (id === 'listen') place(true);
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
    hush: () => conversation.toggleHush(),
    pause: () => conversation.togglePause(),
    write: () => byId('text').focus(),
    leave,
  }, byId('shortcuts'));
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) conversation.comeBack();
  });
  // Not `beforeunload`, which phones do not fire.
  window.addEventListener('pagehide', () => {
    keeping.leave();
  });
  byId('fresh').addEventListener('click', () => keeping.renew());
  byId('aloud').addEventListener('click', () => conversation.wishes.change({ written: !conversation.wishes.now.written || undefined }));
  conversation.wishes.addEventListener('change', render);
  byId('share').addEventListener('click', () => conversation.standIns.toggleScreen());
}

/** Back to what this tab showed before a reload, and into the call that it cut off. */
async function comeBack() {
  const cutOff = await keeping.comeBack();
  if (!cutOff || conversation.isInCall) return;
  conversation.mode.choose(/** @type {import('./mode.js').Choice} */ (cutOff.mode));
  place(cutOff.listenOnly, cutOff.resume);
}

function bindConversation() {
  new Subtitles(conversation.captions);
  const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
    conversation.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail));
  on('change', () => {
    // Who waits may wait for an engine that died and starts again.
    if (conversation.phase === 'queued' && conversation.info?.ready !== false && !isLookedAt) watch.look();
    isLookedAt = conversation.phase === 'queued';
    render();
  });
  on('served', ({ hasWaited }) => {
    if (hasWaited && byId('chime').checked) chime(audioContext());
    keeping.begin(conversation.mode.now);
  });
  on('blocked', ({ isBlocked }) => { byId('unblock').hidden = !isBlocked; });
  on('trouble', (trouble) => notice.show(() => deviceProblem(trouble)));
  on('back', () => ['microphone_lost', 'camera_lost'].includes(notice.shown?.kind ?? '') && notice.hide());
  on('lost', ({ kind }) => notice.show(() => deviceLost(kind)));
  on('ended', ({ ending }) => { onEnded(ending); });
  // What is left of a wait, or of a pause.
  window.setInterval(() => ['queued', 'paused'].includes(conversation.phase) && stage.show(), COUNT_EVERY_MS);
}

takeKeyFromAddress();
const asked = askedInAddress();
if (asked.mode) conversation.mode.ask(asked.mode);
conversation.wantsCamera = asked.camera;
if (memory.read('speaker')) loadSelectors();
bindLanguageButton(byId('language'));
bindConversation();
bindControls();
bindPanels();
tongue.addEventListener('change', render);
watch.addEventListener('found', (event) => onServer(/** @type {CustomEvent} */ (event).detail));
watch.addEventListener('away', () => {
  if (!conversation.isInCall && !notice.shown) notice.show(serverAway);
});
expose(conversation);
render();
conversation.devices.refresh();
if (!conversation.devices.available) showInsecure();
watch.look();
comeBack();
keepShell();
