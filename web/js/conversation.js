/**
 * The page's side of a conversation: one call after another with the devices, captions and figures that go with them.
 * Knows the <audio> element and nothing else of the document.
 *
 * Events: `change` (phase, devices, hints), `figures`, `blocked` {isBlocked} (the browser wants a tap before it plays),
 * `trouble` {DeviceTrouble}, `lost` {kind} (a device in use went away), `ended` {ending, length_s}.
 */

import { AttachmentTrouble, partOf } from './attachment.js';
import { Call, newItemId } from './call.js';
import { Captions } from './captions.js';
import { EventLog } from './debug.js';
import { DeviceTrouble, Devices } from './devices.js';
import { Meter, wakeAudio } from './meters.js';
import { Mode, settingsOf } from './mode.js';
import { isInCall, isTalking, phaseOf } from './phase.js';
import { PushToTalk } from './pushtotalk.js';
import { Refusal } from './server.js';
import { Stats } from './stats.js';
import { Talk } from './talk.js';
import { keepScreenOn, letScreenSleep } from './wakelock.js';

const FIGURES_EVERY_MS = 1000;
const LEVELS_EVERY_MS = 50;
/** While an answer is awaited, so that its first sound is timed to about this. */
const LEVELS_AWAITED_MS = 15;

export class Conversation extends EventTarget {
  devices = new Devices();
  captions = new Captions();
  log = new EventLog();
  userMeter = new Meter();
  assistantMeter = new Meter();
  talk = new Talk();
  mode = new Mode();
  pushToTalk = new PushToTalk();
  /** @type {Call|null} */ call = null;
  /** @type {import('./server.js').Info|null} */ info = null;
  /** @type {Partial<import('./stats.js').Figures>} */ figures = {};
  isMuted = false;
  /** The browser may be showing its permission prompt. */
  isAsking = false;
  wasInCall = false;
  /** Grows with each attempt to call and each hang-up: what a late prompt answers to. */
  #attempt = 0;
  #connected_ms = 0;
  #figuresTimer = 0;
  #lastMode = this.mode.now;
  /** The answer was stopped before it began. */
  #isUnwanted = false;

  /** @param {HTMLAudioElement} audio */
  constructor(audio) {
    super();
    this.audio = audio;
    this.#renewTalk();
    this.mode.addEventListener('change', () => this.#onMode());
    this.#bindPushToTalk();
    this.devices.addEventListener('list', () => this.#changed());
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

  get isTurnBased() {
    return this.mode.now === 'turn_based';
  }

  /** Whether the user has to push to talk, and would be heard. */
  get canTalk() {
    return this.isTurnBased && isTalking(this.phase) && !this.call?.listenOnly && Boolean(this.devices.microphone);
  }

  get connected_s() {
    return this.#connected_ms ? (performance.now() - this.#connected_ms) / 1000 : 0;
  }

  /** @param {{listenOnly?: boolean}} [how] */
  async place({ listenOnly = false } = {}) {
    if (this.isInCall) return;
    wakeAudio();
    this.#attempt += 1;
    if (!listenOnly && !(await this.#askMicrophone())) return;
    this.captions.clear();
    this.#renewTalk();
    this.wasInCall = true;
    // Who is not heard takes turns: there is no speech whose end could be found.
    const mode = listenOnly ? 'turn_based' : this.mode.chosen;
    this.call = new Call({
      iceServers: this.info?.ice_servers ?? [],
      microphone: listenOnly ? null : this.devices.microphone,
      camera: this.devices.camera,
      video: this.info?.engine?.video ?? true,
      session: settingsOf(mode),
    });
    this.mode.begin(mode);
    this.#bind(this.call);
    this.call.place();
    this.#changed();
  }

  /** @returns {Promise<boolean>} false if there is none, or the user gave up meanwhile */
  async #askMicrophone() {
    const attempt = this.#attempt;
    this.isAsking = true;
    this.#changed();
    const isOpen = await this.openMicrophone();
    if (attempt !== this.#attempt) return false;
    this.isAsking = false;
    if (!isOpen) this.#changed();
    return isOpen;
  }

  hangUp() {
    this.#attempt += 1;
    if (this.isAsking) {
      this.isAsking = false;
      this.devices.close('microphone');
      this.#changed();
    }
    this.call?.hangUp();
  }

  /** @param {string} text starts a call without microphone if there is none */
  async write(text) {
    await this.place({ listenOnly: true });
    if (!this.call) return;
    this.captions.typed(this.call.write(text), text);
    this.#asked();
  }

  /**
   * Sends a file, and what is written about it.
   * @param {File} file @param {string} text @param {(fraction: number) => void} onProgress
   * @returns {Promise<boolean>} whether the server has it; if not, a note says why
   */
  async show(file, text, onProgress) {
    onProgress(0);
    try {
      const part = await partOf(file);
      await this.place({ listenOnly: true });
      const { call } = this;
      if (!call) return false;
      const id = newItemId();
      this.captions.typed(id, text ? `${text} [${file.name}]` : `[${file.name}]`);
      await call.upload(id, part, text, onProgress);
    } catch (error) {
      const isOurs = error instanceof AttachmentTrouble || error instanceof Refusal;
      const reason = (isOurs && error.message) || 'The server cannot be reached.';
      this.captions.note(`Error: ${file.name} was not sent. ${reason}`);
      return false;
    }
    this.#asked();
    return true;
  }

  /** @param {import('./mode.js').ModeName} mode for this call, if there is one, and the next ones */
  chooseMode(mode) {
    const isNews = this.mode.asked ? mode !== this.mode.asked : mode !== this.mode.now;
    this.mode.choose(mode, isNews ? this.call?.update(settingsOf(mode)) : undefined);
  }

  #onMode() {
    if (this.mode.now !== this.#lastMode) {
      this.#lastMode = this.mode.now;
      this.pushToTalk.stop();
      // Speech that began in another mode may never be told to have ended.
      this.talk.held(false);
      this.#openEar();
    }
    this.#changed();
  }

  #bindPushToTalk() {
    const { pushToTalk } = this;
    pushToTalk.addEventListener('begun', () => {
      this.interrupt();
      this.call?.clearInput();
      this.talk.held(true);
    });
    pushToTalk.addEventListener('dropped', () => {
      this.call?.clearInput();
      this.talk.held(false);
    });
    pushToTalk.addEventListener('said', (event) => {
      this.call?.commitInput();
      this.talk.held(false);
      this.#asked(/** @type {CustomEvent} */ (event).detail.released_ms);
    });
    pushToTalk.addEventListener('change', () => {
      this.#openEar();
      this.#changed();
    });
  }

  /** @param {number} [at_ms] when the user had finished */
  #asked(at_ms = performance.now()) {
    this.#isUnwanted = false;
    this.talk.asked(at_ms);
  }

  interrupt() {
    if (!this.canInterrupt) return;
    // Only where nothing is answered unasked can the next answer be known to be the one that was stopped.
    this.#isUnwanted = this.isTurnBased && !this.talk.isAnswering;
    this.call?.interrupt();
  }

  get canInterrupt() {
    return this.phase === 'speaking' || this.phase === 'thinking';
  }

  /** @param {boolean} isMuted */
  mute(isMuted) {
    this.isMuted = isMuted;
    this.#openEar();
    this.#changed();
  }

  /** The microphone is sent while the user wants to be heard. */
  #openEar() {
    const { microphone } = this.devices;
    if (microphone) microphone.enabled = this.#isHeard;
  }

  get #isHeard() {
    return this.isTurnBased ? this.pushToTalk.isOpen : !this.isMuted;
  }

  /** Opens the chosen microphone and uses it from now on. */
  async openMicrophone() {
    return this.#use(async () => {
      const track = await this.devices.open('microphone');
      track.enabled = this.#isHeard;
      this.userMeter.attach(track);
      await this.call?.replaceMicrophone(track);
    });
  }

  /** @param {'open'|'flip'} [how] */
  async openCamera(how = 'open') {
    return this.#use(async () => {
      const track = await (how === 'flip' ? this.devices.flip() : this.devices.open('camera'));
      await this.call?.replaceCamera(track);
    });
  }

  async closeCamera() {
    // Closed rather than disabled, so that the camera's light goes out.
    this.devices.close('camera');
    this.#changed();
    await this.call?.replaceCamera(null).catch(() => {});
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
      this.#changed();
    }
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
    this.talk.addEventListener('turn', () => this.#changed());
    this.talk.addEventListener('latency', () => this.log.mark('answer_heard'));
  }

  /** @param {Call} call */
  #bind(call) {
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
      call.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail));
    on('mark', ({ name }) => this.log.mark(name));
    on('sent', (event) => this.log.add(event, { sent: true }));
    on('message', (event) => this.#onServerEvent(event));
    on('audio', ({ stream }) => this.#onStream(stream));
    on('ended', (ending) => this.#onEnded(ending));
    on('state', ({ state }) => {
      if (state === 'connected' && !this.#connected_ms) this.#onConnected();
      if (state !== 'ended') this.#changed();
    });
  }

  #onConnected() {
    this.#connected_ms = performance.now();
    keepScreenOn();
    const stats = new Stats();
    this.#figuresTimer = window.setInterval(() => this.#measure(stats), FIGURES_EVERY_MS);
  }

  /** @param {Stats} stats */
  async #measure(stats) {
    const report = await this.call?.report().catch(() => null);
    if (!report) return;
    this.figures = stats.add(report);
    this.#emit('figures', this.figures);
  }

  /** @param {any} event */
  #onServerEvent(event) {
    const now_ms = performance.now();
    this.log.add(event);
    this.captions.apply(event);
    this.mode.apply(event);
    // An engine may tell where speech begins and ends also where the button decides it.
    const isAside = this.isTurnBased && /^input_audio_buffer\.speech_/.test(event.type);
    if (!isAside) this.talk.apply(event, now_ms);
    if (event.type === 'response.created' && (this.#isUnwanted || this.pushToTalk.isOpen)) this.#decline();
    // Where levels cannot be read in time, the event is the best sign of the first sound.
    const isUnheard = document.hidden || !this.assistantMeter.isRunning;
    if (event.type === 'output_audio_buffer.started' && isUnheard) this.talk.heard(true, now_ms);
    if (event.type === 'session.warning' && event.message) this.captions.note(String(event.message));
    const error = event.type === 'error' ? event.error : event.response?.status_details?.error;
    // Stopping an answer that has just ended by itself is no news to anybody.
    if (error?.message && error.code !== 'response_cancel_not_active') this.captions.note(`Error: ${error.message}`);
  }

  #decline() {
    this.#isUnwanted = false;
    this.call?.interrupt();
  }

  /** @param {MediaStream} stream */
  #onStream(stream) {
    // Through an element and not WebAudio: only then does the echo canceller know what the loudspeaker plays.
    this.audio.srcObject = stream;
    this.assistantMeter.attach(stream.getAudioTracks()[0] ?? null);
    this.play();
  }

  /** @param {import('./call.js').Ending} ending */
  #onEnded(ending) {
    this.log.mark(`ended.${ending.kind}`);
    clearInterval(this.#figuresTimer);
    const length_s = this.connected_s;
    this.#connected_ms = 0;
    this.call = null;
    this.wasInCall = ending.kind !== 'refused';
    this.talk.stop();
    this.pushToTalk.stop();
    this.mode.end();
    this.captions.finish();
    this.devices.closeAll();
    this.audio.srcObject = null;
    this.userMeter.attach(null);
    this.assistantMeter.attach(null);
    letScreenSleep();
    this.#emit('blocked', { isBlocked: false });
    this.#changed();
    this.#emit('ended', { ending, length_s });
  }

  /** @param {'microphone'|'camera'} kind */
  #onLost(kind) {
    if (kind === 'microphone') this.userMeter.attach(null);
    else this.call?.replaceCamera(null).catch(() => {});
    this.#changed();
    if (kind === 'camera' || this.call) this.#emit('lost', { kind });
  }

  #readLevels() {
    this.userMeter.read();
    this.assistantMeter.read();
    this.talk.heard(this.assistantMeter.isAudible, performance.now());
    this.dispatchEvent(new Event('levels'));
    window.setTimeout(() => this.#readLevels(), this.talk.awaitsSound ? LEVELS_AWAITED_MS : LEVELS_EVERY_MS);
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }

  /** @param {string} type @param {any} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
