/**
 * The page's side of a conversation: one call after another with the devices, captions and figures that go with them.
 * Knows the <audio> element and nothing else of the document.
 *
 * Events: `change` (phase, devices, hints), `figures`, `blocked` {isBlocked} (the browser wants a tap before it plays),
 * `served` {hasWaited} (there is a session), `trouble` {DeviceTrouble}, `lost` {kind} (a device in use went away),
 * `back` (what went away is there again), `ended` {ending, length_s}.
 */

import { Captions, DeviceTrouble, OmnicallCall } from '../lib/omnicall.js';
import { server } from './access.js';
import { EventLog } from './debug.js';
import { Devices } from './devices.js';
import { Meter, SilenceWatch, wakeAudio } from './meters.js';
import { t, tOr } from './i18n.js';
import { Mode, sessionMode } from './mode.js';
import { ModelFigures } from './modelfigures.js';
import { isInCall, isTalking, phaseOf } from './phase.js';
import { Sounds } from './sounds.js';
import { StandIns } from './standins.js';
import { Countdown, Talk } from './talk.js';
import { keepScreenOn, letScreenSleep } from './phone.js';
import { Wishes, changesOf, sessionOf, turnsOf } from './wishes.js';
import { Writing } from './writing.js';

const LEVELS_EVERY_MS = 50;
/** While an answer is awaited, so that its first sound is timed to about this. */
const LEVELS_AWAITED_MS = 15;

/** @param {'warning'|'error'} tone @param {string} code @param {string} message the server's @returns {string} in the page's language */
function noteOf(tone, code, message) {
  const text = tOr(`note.${code}`, message);
  return tone === 'error' ? t('note.error', { message: text }) : text;
}

export class Conversation extends EventTarget {
  devices = new Devices();
  captions = new Captions();
  log = new EventLog();
  userMeter = new Meter();
  assistantMeter = new Meter();
  talk = new Talk();
  mode = new Mode();
  model = new ModelFigures();
  sounds = new Sounds();
  wishes = new Wishes();
  standIns = new StandIns(this);
  writing = new Writing(this);
  /** @type {OmnicallCall|null} */ call = null;
  /** @type {import('../lib/server.js').Info|null} */ info = null;
  /** @type {Partial<import('../lib/stats.js').Figures>} */ figures = {};
  isMuted = false;
  /** As the server has confirmed. */
  isHushed = false;
  isPaused = false;
  /** For how long the place is kept that a pause has left. */
  #kept = new Countdown();
  silence = new SilenceWatch();
  /** The browser may be showing its permission prompt. */
  isAsking = false;
  wasInCall = false;
  /** A call begins with the camera on. */
  wantsCamera = false;
  /** Grows with each attempt to call and each hang-up: what a late prompt answers to. */
  #attempt = 0;
  #connected_ms = 0;
  #wait = new Countdown();
  #hasWaited = false;
  /** The camera went away while the page was not seen. */
  #lostCamera = false;
  /** The call that is served. @type {OmnicallCall|null} */ #begun = null;
  #lastMode = this.mode.now;

  /** @param {HTMLAudioElement} audio */
  constructor(audio) {
    super();
    this.audio = audio;
    this.#renewTalk();
    this.mode.addEventListener('change', () => this.#onMode());
    this.wishes.addEventListener('change', (event) => {
      const { names } = /** @type {CustomEvent} */ (event).detail;
      const changes = changesOf(this.wishes.now, names, this.honours, this.mode.now);
      if (Object.keys(changes).length) this.call?.update(changes);
    });
    this.devices.addEventListener('list', () => this.changed());
    this.devices.addEventListener('lost', (event) => this.#onLost(/** @type {CustomEvent} */ (event).detail.kind));
    this.#readLevels();
  }

  get phase() {
    return phaseOf(this);
  }

  get isInCall() {
    return isInCall(this.phase);
  }

  get hasCamera() {
    return Boolean(this.devices.camera);
  }

  /** @returns {MediaStreamTrack|null} what is shown to the model */
  get picture() {
    return this.standIns.picture ?? this.devices.camera;
  }

  /** Whether the engine does what a setting asks of it. @type {(name: string) => boolean} */
  honours = (name) => this.info?.engine?.honours?.includes(name) ?? false;

  get isTurnBased() {
    return this.mode.isTurnBased;
  }

  /** Whether there is a microphone in the call. */
  get isHeard() {
    return Boolean(this.call && !this.call.listenOnly);
  }

  /** @type {import('./phase.js').Pushing} */
  get pushing() {
    return this.call?.pushToTalk ?? { isHeld: false, isOpen: false, wasTooShort: false };
  }

  /** Whether the user has to push to talk, and would be heard. */
  get canTalk() {
    return this.isTurnBased && isTalking(this.phase) && this.isHeard && Boolean(this.standIns.sound ?? this.devices.microphone);
  }

  get connected_s() {
    return this.#connected_ms ? (performance.now() - this.#connected_ms) / 1000 : 0;
  }

  /** What is left of the wait in the queue; 0 if it is not known. */
  get wait_s() {
    return this.#wait.left_s(performance.now());
  }

  /** @param {{listenOnly?: boolean, resume?: string}} [how] `resume`: what `suspend` of a call gave */
  async place({ listenOnly = this.mode.chosen === 'chat', resume = '' } = {}) {
    if (this.isInCall) return;
    wakeAudio();
    this.#attempt += 1;
    const isHeard = !listenOnly && this.standIns.wantsMicrophone;
    if (isHeard && !(await this.#askMicrophone())) return;
    if (this.wantsCamera && isHeard && !this.picture) this.openCamera();
    // What was said before stays to be read.
    if (this.captions.list().length && !resume) this.captions.note(t('note.new_call'));
    this.#renewTalk();
    this.silence.reset();
    this.model.reset();
    this.wasInCall = true;
    // Who is not heard takes turns: there is no speech whose end could be found.
    const mode = listenOnly ? 'chat' : this.mode.chosen;
    this.call = new OmnicallCall({
      server,
      audio: listenOnly ? null : (this.standIns.sound ?? this.devices.microphone),
      video: (this.info?.engine?.video ?? true) && (this.picture ?? 'later'),
      mode: sessionMode(mode),
      session: sessionOf(this.wishes.now, this.honours, mode),
      goOn: true,
      muted: this.isMuted,
      captions: this.captions,
      resume,
    });
    this.mode.begin(mode);
    this.#bind(this.call);
    // `ended` tells what goes wrong.
    this.call.connect().catch(() => {});
    this.writing.begin();
    this.changed();
  }

  /** @returns {Promise<boolean>} false if there is none, or the user gave up meanwhile */
  async #askMicrophone() {
    const attempt = this.#attempt;
    this.isAsking = true;
    this.changed();
    const isOpen = await this.openMicrophone();
    if (attempt !== this.#attempt) return false;
    this.isAsking = false;
    if (!isOpen) this.changed();
    return isOpen;
  }

  hangUp() {
    this.#attempt += 1;
    if (this.isAsking) {
      this.isAsking = false;
      this.devices.close('microphone');
      this.changed();
    }
    this.call?.hangUp();
  }

  /** @param {MediaStreamTrack|null} track what the other side hears of the user */
  hear(track) {
    this.userMeter.attach(track);
    this.sounds.tap('user', track);
  }

  /** @param {import('./mode.js').Choice} choice for this call, if there is one, and the next ones */
  async chooseMode(choice) {
    const { call } = this;
    if (call && choice !== 'chat' && !this.isHeard && !(await this.openMicrophone())) return;
    if (this.call !== call) return;
    if (call && choice === 'chat') await this.#closeMicrophone();
    const isNews = sessionMode(this.mode.asked ?? this.mode.now) !== sessionMode(choice);
    const turns = turnsOf(this.wishes.now, this.honours, choice);
    this.mode.choose(choice, isNews ? call?.setMode(sessionMode(choice), turns) : undefined);
  }

  /** Whoever began in writing wants to be heard. */
  speak() {
    const { chosen, supported } = this.mode;
    return this.chooseMode(chosen === 'chat' ? supported[0] : chosen);
  }

  /** From now on the conversation is in writing. */
  async #closeMicrophone() {
    this.devices.close('microphone');
    this.hear(null);
    this.mode.listenTo(false);
    await this.call?.useMicrophone(null).catch(() => {});
  }

  #onMode() {
    if (this.mode.now !== this.#lastMode) {
      this.#lastMode = this.mode.now;
      this.talk.switched();
    }
    this.changed();
  }

  hold() {
    if (this.canTalk) this.call?.pushToTalk.hold();
  }

  release() {
    this.call?.pushToTalk.release();
  }

  interrupt() {
    if (this.canInterrupt) this.call?.interrupt();
  }

  get canInterrupt() {
    return this.phase === 'speaking' || this.phase === 'thinking';
  }

  /** Hush: it only listens until this is called again. */
  toggleHush() {
    if (isTalking(this.phase)) this.call?.hush(!this.isHushed);
  }

  togglePause() {
    if (this.isPaused) this.call?.resume();
    else if (isTalking(this.phase)) this.call?.pause();
  }

  /** What is left of the time for which a pause keeps the place. */
  get kept_s() {
    return this.#kept.left_s(performance.now());
  }

  /** @param {boolean} isPaused nothing leaves the devices meanwhile @param {number} kept_s */
  #rest(isPaused, kept_s) {
    this.isPaused = isPaused;
    this.#kept.set(kept_s, performance.now());
    if (this.picture) this.picture.enabled = !isPaused;
    const { microphone } = this.call ?? {};
    if (microphone && isPaused) microphone.enabled = false;
    else this.call?.mute(this.isMuted);
    this.changed();
  }

  /** @param {boolean} isMuted */
  mute(isMuted) {
    this.isMuted = isMuted;
    this.call?.mute(isMuted);
    this.changed();
  }

  /** Opens the chosen microphone and uses it from now on. */
  async openMicrophone() {
    return this.#use(async () => {
      const track = await this.devices.open('microphone');
      this.hear(track);
      this.silence.reset();
      if (!this.call) return;
      await this.call.useMicrophone(track);
      this.mode.listenTo(true);
    });
  }

  /** @param {'open'|'flip'} [how] */
  async openCamera(how = 'open') {
    return this.#use(async () => {
      const track = await (how === 'flip' ? this.devices.flip() : this.devices.open('camera'));
      if (!this.standIns.picture) await this.call?.useCamera(track);
    });
  }

  async closeCamera() {
    // Closed rather than disabled, so that the camera's light goes out.
    this.devices.close('camera');
    this.changed();
    await this.call?.useCamera(this.picture).catch(() => {});
  }

  /** @param {() => Promise<void>} open @returns {Promise<boolean>} */
  async #use(open) {
    try {
      await open();
      return true;
    } catch (error) {
      const detail = error instanceof DeviceTrouble ? error : new DeviceTrouble('microphone', 'failed', String(error));
      if (detail.kind !== 'withdrawn') this.#emit('trouble', detail);
      return false;
    } finally {
      this.changed();
    }
  }

  /** The page is seen again: a phone may have taken microphone and camera away meanwhile, for a call of its own. */
  async comeBack() {
    if (!this.call) return;
    const hadCamera = this.#lostCamera;
    this.#lostCamera = false;
    const isTaken = (/** @type {MediaStreamTrack|null} */ track) => track !== null && (track.muted || track.readyState === 'ended');
    await this.play();
    const isDeaf = this.isHeard && (!this.devices.microphone || isTaken(this.devices.microphone));
    const isBack = isDeaf && (await this.openMicrophone());
    if (hadCamera || isTaken(this.devices.camera)) await this.openCamera();
    if (isBack) this.#emit('back', {});
  }

  /** Tries again to play what the browser held back; call it from a tap. */
  async play() {
    wakeAudio();
    try {
      await this.audio.play();
      this.#emit('blocked', { isBlocked: false });
    } catch (error) {
      if (/** @type {Error} */ (error).name === 'NotAllowedError') this.#emit('blocked', { isBlocked: true });
    }
  }

  #renewTalk() {
    this.talk.stop();
    this.talk = new Talk();
    this.talk.addEventListener('turn', () => this.changed());
    this.talk.addEventListener('latency', () => this.log.mark('answer_heard'));
  }

  /** @param {OmnicallCall} call */
  #bind(call) {
    const listen = (/** @type {EventTarget} */ target) => (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
      target.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail));
    const on = listen(call);
    on('mark', ({ name }) => this.log.mark(name));
    on('sent', (event) => this.log.add(event, { sent: true }));
    on('message', (event) => this.#onServerEvent(event));
    on('audio', ({ stream }) => this.#onStream(stream));
    on('notice', ({ tone, code, message }) => this.captions.note(noteOf(tone, code, message)));
    on('recorded', ({ code }) => {
      // The server may be another one by now than that which was asked.
      if (this.info) this.info = { ...this.info, recorded: true, recorded_pictures: code === 'recorded_pictures' };
      this.changed();
    });
    on('figures', (figures) => {
      this.figures = figures;
      this.model.keep();
      this.#emit('figures', figures);
    });
    on('ended', (ending) => this.#onEnded(ending));
    on('state', ({ state }) => {
      if (state === 'connected' && !this.#connected_ms) this.#onConnected();
      if (state !== 'ended') this.changed();
    });
    const onTalk = listen(call.pushToTalk);
    onTalk('begun', () => {
      this.sounds.held(true);
      this.talk.held(true);
    });
    onTalk('dropped', () => {
      this.sounds.dropped();
      this.talk.held(false);
    });
    onTalk('said', ({ released_ms }) => {
      this.sounds.held(false);
      this.talk.held(false);
      this.talk.asked(released_ms);
    });
    onTalk('change', () => this.changed());
  }

  #onConnected() {
    this.#connected_ms = performance.now();
    keepScreenOn();
  }

  /** @param {any} event */
  #onServerEvent(event) {
    const now_ms = performance.now();
    this.log.add(event);
    this.mode.apply(event);
    this.model.apply(event, now_ms);
    this.sounds.apply(event, this.isTurnBased);
    if (event.type === 'session.force_listen.updated') {
      this.isHushed = Boolean(event.on);
      this.changed();
    }
    if (event.type === 'session.paused') this.#rest(true, Number(event.slot_kept_s) || 0);
    if (event.type === 'session.resumed') this.#rest(false, 0);
    if (event.type === 'session.queued') {
      this.#wait.set(Number(event.eta_s) || 0, now_ms);
      this.#hasWaited = true;
    }
    if (event.type === 'session.created') {
      this.#emit('served', { hasWaited: this.#hasWaited });
      this.#hasWaited = false;
      // Once for each call, however many connections it takes.
      if (this.#begun !== this.call) this.standIns.begin();
      this.#begun = this.call;
    }
    // An engine may tell where speech begins and ends also where the button decides it.
    const isAside = this.isTurnBased && /^input_audio_buffer\.speech_/.test(event.type);
    if (!isAside) this.talk.apply(event, now_ms);
    // Where levels cannot be read in time, the event is the best sign of the first sound.
    const isUnheard = document.hidden || !this.assistantMeter.isRunning;
    if (event.type === 'output_audio_buffer.started' && isUnheard) this.talk.heard(true, now_ms);
  }

  /** @param {MediaStream} stream */
  #onStream(stream) {
    // Through an element and not WebAudio: only then does the echo canceller know what the loudspeaker plays.
    this.audio.srcObject = stream;
    const track = stream.getAudioTracks()[0] ?? null;
    this.assistantMeter.attach(track);
    this.sounds.tap('assistant', track);
    this.play();
  }

  /** @param {import('../lib/endings.js').Ending} ending */
  #onEnded(ending) {
    this.log.mark(`ended.${ending.kind}`);
    const length_s = this.connected_s;
    this.#connected_ms = 0;
    this.call = null;
    this.wasInCall = ending.kind !== 'refused';
    this.talk.stop();
    this.isHushed = this.isPaused = this.#lostCamera = false;
    this.mode.end();
    this.devices.closeAll();
    this.standIns.end();
    this.audio.srcObject = null;
    this.userMeter.attach(null);
    this.assistantMeter.attach(null);
    this.sounds.end();
    letScreenSleep();
    this.#emit('blocked', { isBlocked: false });
    this.changed();
    this.#emit('ended', { ending, length_s });
  }

  /** @param {'microphone'|'camera'} kind */
  #onLost(kind) {
    if (kind === 'microphone') this.userMeter.attach(null);
    if (kind === 'camera' && this.call && document.hidden) this.#lostCamera = true;
    this.changed();
    if (kind === 'camera' || this.call) this.#emit('lost', { kind });
  }

  #readLevels() {
    this.userMeter.read();
    this.assistantMeter.read();
    this.talk.heard(this.assistantMeter.isAudible, performance.now());
    this.model.hear(this.userMeter.isAudible && !this.isMuted, this.assistantMeter.isAudible, performance.now());
    const isListening = this.isHeard && isTalking(this.phase) && this.userMeter.isRunning && (this.isTurnBased ? this.pushing.isHeld : !this.isMuted);
    if (this.silence.read(this.userMeter.level_db, isListening, performance.now())) this.changed();
    this.dispatchEvent(new Event('levels'));
    window.setTimeout(() => this.#readLevels(), this.talk.awaitsSound ? LEVELS_AWAITED_MS : LEVELS_EVERY_MS);
  }

  /** Something that is shown is different. */
  changed() {
    this.dispatchEvent(new Event('change'));
  }

  /** @param {string} type @param {any} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
