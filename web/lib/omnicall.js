/**
 * A call to omnicall from a browser, without a build step and without a document:
 *
 *     const call = new OmnicallCall({ url: 'https://calls.example.com', key });
 *     call.addEventListener('audio', ({ detail }) => { loudspeaker.srcObject = detail.stream; });
 *     await call.connect();
 *     call.write('What time is it?');
 *
 * Versions follow semver.org: from 1.0 on what is exported here, with its options and events, changes incompatibly in
 * major versions only; before that in minor ones. The other files of this folder are not for direct use.
 */

import { Answers } from './answers.js';
import { Captions } from './captions.js';
import { Comeback, retelling } from './comeback.js';
import { DeviceTrouble, Sources, troubleText } from './devices.js';
import { CallError, ending, mayComeBack, noticeOf } from './endings.js';
import { partOf } from './files.js';
import { Link } from './link.js';
import { PushToTalk } from './pushtotalk.js';
import { Refusal, Server, newId } from './server.js';
import { Settings, merged, modeOf, settingsOf } from './settings.js';
import { measure } from './stats.js';

export { Captions } from './captions.js';
export { DeviceTrouble } from './devices.js';
export { CallError } from './endings.js';
export { AttachmentTrouble, partOf } from './files.js';
export { Refusal, Server } from './server.js';
export { MODES } from './settings.js';
export { qualityOf } from './stats.js';

export const VERSION = '0.2.0';

const MAX_UNTOLD = 16;
/** Figures that the server is told, and once in how many measurements. */
const REPORTED = /** @type {const} */ (['rtt_ms', 'in_loss_pct', 'in_jitter_ms', 'in_buffer_ms', 'concealed_pct', 'out_loss_pct']);
const REPORT_EACH = 5;
/** How a server refuses to resume what is not there any more. */
const OVER = [404, 410];

/** @typedef {import('./endings.js').Ending} Ending */
/** @typedef {import('./devices.js').Source} Source */
/** @typedef {import('./settings.js').ModeName} ModeName */
/** @typedef {'new'|'calling'|'connecting'|'connected'|'reconnecting'|'ended'} CallState */

/**
 * @typedef {Object} Options
 * @property {string} [url] of the server; the page's own host otherwise
 * @property {string|(() => string)} [key] an access key or an ephemeral one
 * @property {Server} [server] instead of `url` and `key`
 * @property {ModeName} [mode] how the two sides take turns; the server's choice otherwise
 * @property {Record<string, any>} [session] settings as of `session.update`
 * @property {Source} [audio] true (the system's microphone) if left out; false places a call that only listens until
 *   `useMicrophone`
 * @property {Source|'later'} [video] 'later' if left out: a camera may come in the call; false: never
 * @property {boolean} [muted]
 * @property {RTCIceServer[]} [iceServers] those that the server hands out otherwise
 * @property {Captions} [captions] filled instead of own ones, so that a view can outlive the call
 * @property {boolean} [goOn] the session is first told what stands in `captions`: the call goes on from there
 * @property {string} [resume] what `suspend` gave: its session goes on, if it is still there
 * @property {import('./comeback.js').Patience|false} [reconnect] after a lost connection; false: that ends the call
 */

/**
 * One conversation, over as many connections as it takes.
 *
 * Events, each with `detail`: `state` {state}; `message`, an event of the server; `notice` {tone, code, message}, what
 * people should read of a warning or an error; `recorded` {code}, what the server keeps, for each connection; `queue`
 * {position, eta_s}; `audio` {stream}, to be played; `figures` of the connection, each second; `lost` {kind} of a
 * device; `sent`, an event to the server; `mark` {name} of the connection's progress; and, last and once, `ended`, the
 * Ending. What both sides said is in `captions`.
 */
export class OmnicallCall extends EventTarget {
  #server;
  #options;
  #sources = new Sources();
  #answers = new Answers();
  #comeback;
  /** @type {Link|null} */ #link = null;
  /** @type {CallState} */ #state = 'new';
  #settings;
  /** What a session that comes back is to be told first. @type {Record<string, any>[]} */ #retelling = [];
  /** What was sent while there was no session. @type {Record<string, any>[]} */ #untold = [];
  /** What was written and is not known to have arrived, by its item. @type {Map<string, Record<string, any>>} */ #unechoed = new Map();
  /** Ids of events whose refusal is no news to people. @type {Set<string>} */ #unminded = new Set();
  #wasServed = false;
  /** What of the call the server keeps, as it has told: '' nothing. @type {''|'recorded'|'recorded_pictures'} */
  recorded = '';
  /** The connection is a new one, whose server has not told of the session yet. */
  #isComingBack = false;
  /** What resumes the session over another connection, '' while nothing does. */
  #token = '';
  #stopMeasuring = () => {};
  #measured = 0;
  /** @type {(end: Ending|null) => void} */ #settle = () => {};
  /** @type {Promise<Ending|null>} null once there is a session */ #served = this.#newServed();
  #isMuted;
  #isUnheard;
  #isHushed = false;
  #isPaused = false;
  captions;
  pushToTalk = new PushToTalk();
  /** The session as the server last told it. @type {Record<string, any>|null} */ session = null;
  /** While waiting for a place. @type {{position: number, eta_s: number}|null} */ queue = null;
  /** @type {Partial<import('./stats.js').Figures>} */ figures = {};

  /** @param {Options} [options] */
  constructor(options = {}) {
    super();
    this.#options = options;
    this.#server = options.server ?? new Server(options);
    this.#comeback = new Comeback(options.reconnect || {});
    const first = { type: 'realtime', output_modalities: ['audio'], ...(options.mode && settingsOf(options.mode)) };
    this.#settings = new Settings(merged(first, options.session ?? {}));
    this.#isMuted = options.muted ?? false;
    this.#isUnheard = options.audio === false || options.audio === null;
    this.captions = options.captions ?? new Captions();
    this.#token = options.resume ?? '';
    // What cannot be resumed may go on anew.
    this.#wasServed = Boolean(this.#token);
    if (options.goOn) this.#retelling = retelling(this.captions.list());
    this.#bindPushToTalk();
    this.#sources.addEventListener('lost', (event) => this.#onLost(/** @type {CustomEvent} */ (event).detail.kind));
  }

  /** @returns {CallState} */
  get state() {
    return this.#state;
  }

  /** The server's id of this call, '' until it answered; another one after a lost connection. */
  get id() {
    return this.#link?.id ?? '';
  }

  /** @returns {ModeName|null} null if the server did not say yet and nothing was asked for */
  get mode() {
    return modeOf(this.session) ?? modeOf(this.#settings.now);
  }

  get microphone() {
    return this.#sources.microphone;
  }

  get camera() {
    return this.#sources.camera;
  }

  /** No microphone was given yet; `useMicrophone` may still do it. */
  get listenOnly() {
    return this.#isUnheard;
  }

  get isMuted() {
    return this.#isMuted;
  }

  /**
   * Places the call. Who has to wait for a place is told by `queue`.
   * @returns {Promise<void>} when the session is there; raises `CallError`
   */
  async connect() {
    if (this.#state !== 'new') throw new Error('A call is placed once; make another one.');
    this.#become('calling');
    const { audio = true, video = 'later', iceServers } = this.#options;
    try {
      await this.#sources.use('microphone', audio);
      await this.#sources.use('camera', video === 'later' ? null : video);
    } catch (error) {
      const message = error instanceof DeviceTrouble ? troubleText(error) : String(error);
      this.#end(ending('device', { message }));
    }
    const servers = iceServers ?? (await this.#server.info().then((info) => info.ice_servers, () => []));
    if (!this.#isEnded()) this.#dial(servers);
    else this.#sources.close();
    const end = await this.#served;
    if (end) throw new CallError(end);
  }

  hangUp() {
    this.#finish(ending('hangup'));
  }

  /** The page is going away: nothing after this is certain to run. */
  leave() {
    this.#finish(ending('left'));
  }

  /**
   * The page is going away and may be back in a moment, as in a reload: the session is kept for some seconds.
   * @returns {string} what another call takes as `resume`; '' if the session ends now
   */
  suspend() {
    const token = this.session ? this.#token : '';
    this.#finish(ending(token ? 'away' : 'left'));
    return token;
  }

  // ---- saying ------------------------------------------------------------------------------------------------

  /**
   * Sends a client event, or keeps it until there is a session (the newest 16).
   * @param {Record<string, any>} given gets an `event_id` where it has none
   * @returns {string} that id, which an error names
   */
  send(given) {
    /** @type {Record<string, any>} */ const event = { event_id: newId('event'), ...given };
    if (this.#isEnded()) return event.event_id;
    if (event.type === 'session.update') this.#settings.ask(event);
    // A server takes items when it serves the session, not before; a disturbed connection may be replaced.
    if (!this.session || this.#state === 'reconnecting' || !this.#deliver(event)) {
      this.#untold.push(event);
      if (this.#untold.length > MAX_UNTOLD) this.#untold.shift();
    }
    return event.event_id;
  }

  /**
   * Says something in writing, and wants an answer.
   * @param {string} text
   * @returns {string} the item's id
   */
  write(text) {
    const id = newId('item');
    this.captions.typed(id, text);
    const content = [{ type: 'input_text', text }];
    const item = { id, type: 'message', role: 'user', content };
    const event = { type: 'conversation.item.create', event_id: newId('event'), item };
    this.#unechoed.set(id, event);
    if (this.#unechoed.size > MAX_UNTOLD) this.#unechoed.delete([...this.#unechoed.keys()][0]);
    this.send(event);
    this.#wantAnswer();
    return id;
  }

  /**
   * Shows a picture, a recording or a video, with words or without, and wants an answer.
   * @param {File} file @param {string} [text] @param {(fraction: number) => void} [onProgress]
   * @returns {Promise<void>} when the server has it; raises `AttachmentTrouble`, `Refusal`
   */
  async sendFile(file, text = '', onProgress = () => {}) {
    const media = [{ name: file.name, kind: file.type.split('/')[0] }];
    await this.sendParts([await partOf(file)], { text, media, onProgress });
  }

  /**
   * The same with any number of files that `partOf` has read, and without wanting an answer where none is wanted.
   * @param {Record<string, any>[]} parts
   * @param {Object} with_
   * @param {string} [with_.text]
   * @param {import('./captions.js').Caption['media']} [with_.media] what the caption shows of them
   * @param {(fraction: number) => void} [with_.onProgress]
   * @param {boolean} [with_.wantsAnswer]
   * @returns {Promise<string>} the item's id
   */
  async sendParts(parts, { text = '', media = [], onProgress = () => {}, wantsAnswer = true }) {
    const id = newId('item');
    this.captions.typed(id, text, media);
    if (await this.#served) throw new Refusal('away', 'The call is over.');
    const content = text ? [...parts, { type: 'input_text', text }] : parts;
    await this.#server.addItem(this.id, { id, type: 'message', role: 'user', content }, onProgress);
    if (wantsAnswer) this.#wantAnswer();
    return id;
  }

  /**
   * Takes a message back with all that came after it, as if it had never been said.
   * @param {string} id of a caption
   */
  takeBack(id) {
    if (this.#answers.isAny) this.interrupt();
    for (const row of this.captions.cutBackTo(id)) {
      if (row.role === 'note') continue;
      // A row may have become no item: what was not understood, or never arrived.
      this.#unminded.add(this.send({ type: 'conversation.item.delete', item_id: row.id }));
    }
  }

  /**
   * Wants another answer to what was said before this one.
   * @param {string} id of an answer's caption
   */
  answerAnew(id) {
    this.takeBack(id);
    this.#wantAnswer();
  }

  /**
   * Tells the server what is thought of an answer; a later word about it counts instead. Also after the call's end.
   * @param {string} itemId of the answer @param {'up'|'down'|null} rating null takes it back @param {string} [comment]
   * @returns {Promise<void>} when it is kept; raises `Refusal`
   */
  async rate(itemId, rating, comment = '') {
    await this.#server.rate(this.id, { item_id: itemId, rating, comment });
  }

  /** @param {Record<string, any>} session settings to change @returns {string} the event's id */
  update(session) {
    return this.send({ type: 'session.update', session: { type: 'realtime', ...session } });
  }

  /**
   * @param {ModeName} mode @param {Record<string, any>} [turns] more of its `turn_detection`, as `threshold`
   * @returns {string} as of `update`
   */
  setMode(mode, turns) {
    return this.update(settingsOf(mode, turns));
  }

  /** Stops the answer now: first what is already on its way to the ear, then what is still being made. */
  interrupt() {
    this.#answers.stopped(this.mode === 'turn_based');
    this.send({ type: 'output_audio_buffer.clear' });
    this.send({ type: 'response.cancel' });
  }

  /**
   * Hush: while on, the model only listens, and what it says is cut; `session.force_listen.updated` tells.
   * @param {boolean} isOn
   */
  hush(isOn) {
    this.#isHushed = isOn;
    this.send({ type: 'session.force_listen', on: isOn });
  }

  get isHushed() {
    return this.#isHushed;
  }

  /** Rests: neither sound nor pictures are taken. `session.paused` tells for how long the place is kept. */
  pause() {
    this.#isPaused = true;
    this.send({ type: 'session.pause' });
  }

  /** Goes on after a pause, behind others who wait if it was long; `session.resumed` tells what is remembered. */
  resume() {
    this.#isPaused = false;
    this.send({ type: 'session.resume' });
  }

  get isPaused() {
    return this.#isPaused;
  }

  /** Wants an answer to what was said last; one that is still under way gives way to it. */
  #wantAnswer() {
    this.#answers.wanted();
    // Clearing what does not play is no error, and no event of the server's can come in between.
    this.send({ type: 'output_audio_buffer.clear' });
    this.send({ type: 'response.create' });
  }

  /** What is said while it is held is a turn of the user; in the mode `turn_based`. */
  #bindPushToTalk() {
    const on = (/** @type {string} */ type, /** @type {() => void} */ handle) => this.pushToTalk.addEventListener(type, handle);
    const forget = () => this.send({ type: 'input_audio_buffer.clear' });
    on('begun', () => {
      if (this.#answers.isAny) this.interrupt();
      forget();
    });
    on('dropped', forget);
    on('said', () => {
      this.send({ type: 'input_audio_buffer.commit' });
      this.#wantAnswer();
    });
    on('change', () => this.#openEar());
  }

  // ---- devices -----------------------------------------------------------------------------------------------

  /** @param {boolean} isMuted */
  mute(isMuted) {
    this.#isMuted = isMuted;
    this.#openEar();
    // A model that hears in units then spends none of its memory on silence.
    if (this.session) this.send({ type: 'session.mute', on: isMuted });
  }

  /** @param {Source} source in place of the microphone in use; raises `DeviceTrouble` */
  async useMicrophone(source) {
    const track = await this.#sources.use('microphone', source);
    this.#isUnheard = !track;
    this.#openEar();
    await this.#link?.replaceMicrophone(track);
  }

  /** @param {Source} source in place of the camera in use; raises `DeviceTrouble` */
  async useCamera(source) {
    await this.#link?.replaceCamera(await this.#sources.use('camera', source));
  }

  /** The microphone is sent while the user wants to be heard. */
  #openEar() {
    const { microphone } = this;
    if (microphone) microphone.enabled = this.mode === 'turn_based' ? this.pushToTalk.isOpen : !this.#isMuted;
  }

  /** @param {'microphone'|'camera'} kind */
  #onLost(kind) {
    if (kind === 'camera') this.#link?.replaceCamera(null).catch(() => {});
    this.#emit('lost', { kind });
  }

  // ---- the connection ----------------------------------------------------------------------------------------

  /** @param {RTCIceServer[]} iceServers */
  #dial(iceServers) {
    const video = this.#options.video !== false;
    const { microphone, camera } = this;
    const [session, token] = [this.#settings.now, this.#token];
    const link = new Link({ server: this.#server, iceServers, microphone, camera, video, session, token });
    this.#link = link;
    this.#openEar();
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) =>
      link.addEventListener(type, (event) => {
        if (this.#link === link) handle(/** @type {CustomEvent} */ (event).detail);
      });
    on('message', (event) => this.#onMessage(event));
    on('state', ({ state }) => this.#onLink(state));
    on('ended', (end) => this.#onLinkEnded(end, iceServers));
    on('mark', (detail) => {
      if (detail.name === 'answered') this.#onAnswered(link);
      this.#emit('mark', detail);
    });
    on('audio', (detail) => this.#emit('audio', detail));
    link.place();
  }

  /** @param {Link} link */
  #onAnswered(link) {
    this.#token = link.token;
    // A session that goes on knows what was said.
    if (link.isResumed) this.#retelling.length = 0;
  }

  /** @param {Record<string, any>} event @returns {boolean} */
  #deliver(event) {
    if (!this.#link?.send(event)) return false;
    this.#emit('sent', event);
    return true;
  }

  /** @param {import('./link.js').LinkState} state */
  #onLink(state) {
    if (state === 'ended' || (this.#state === 'reconnecting' && state !== 'connected')) return;
    this.#become(state === 'disturbed' ? 'reconnecting' : /** @type {CallState} */ (state));
    if (state !== 'connected') return;
    if (this.session && !this.#isComingBack) this.#tellUntold();
    this.#stopMeasuring();
    this.#stopMeasuring = measure(() => this.report(), (figures) => this.#tellFigures(figures));
  }

  /** @param {Ending} end @param {RTCIceServer[]} iceServers */
  #onLinkEnded(end, iceServers) {
    const isOver = end.kind === 'server' || (end.kind === 'refused' && OVER.includes(end.refusal?.status ?? 0));
    const wasKept = isOver && Boolean(this.#token);
    if (isOver) this.#token = '';
    const mayCall = mayComeBack(end, this.#wasServed) || (wasKept && end.kind === 'refused');
    const mayTry = this.#options.reconnect !== false && mayCall;
    const least_ms = (end.refusal?.retryAfter_s ?? 0) * 1000;
    if (!mayTry || !this.#comeback.schedule(() => this.#dial(iceServers), least_ms)) {
      this.#end(end);
      return;
    }
    this.#stopMeasuring();
    if (this.session && !this.#token) this.#loseSession();
    this.#isComingBack = true;
    this.#become('reconnecting');
    this.#emit('mark', { name: `again.${this.#comeback.attempt}` });
  }

  /** A session that cannot be resumed is gone: the next one is told what was said and set, and asked what was asked. */
  #loseSession() {
    this.#unechoed.clear();
    this.#served = this.#newServed();
    this.session = null;
    this.captions.finish();
    this.pushToTalk.stop();
    const keyOf = (/** @type {Record<string, any>} */ event) => event.item?.id ?? event.event_id;
    const kept = new Set(this.#untold.map(keyOf));
    const told = [...retelling(this.captions.list()), ...this.#settings.asked];
    this.#retelling = told.filter((event) => !kept.has(keyOf(event)));
    if (this.#answers.isAwaited) this.#retelling.push({ type: 'response.create' });
    this.#answers = new Answers();
  }

  /** @param {any} event */
  #onMessage(event) {
    this.captions.apply(event);
    if (event.type === 'session.created' || event.type === 'session.updated') this.#onSession(event);
    if (event.type === 'session.continued') this.#onContinued(event.items ?? []);
    if (event.type === 'conversation.item.added') this.#unechoed.delete(event.item?.id);
    if (event.type === 'session.paused' || event.type === 'session.resumed') this.#isPaused = event.type === 'session.paused';
    if (event.type === 'error') this.#forgetRefused(event.error?.event_id);
    if (event.type === 'session.queued') {
      this.queue = { position: Number(event.position) || 0, eta_s: Number(event.eta_s) || 0 };
      this.#emit('queue', this.queue);
    }
    const isStopped = this.#answers.apply(event);
    this.#settings.apply(event);
    this.#emit('message', event);
    if (event.type === 'response.created' && (isStopped || this.pushToTalk.isOpen)) this.interrupt();
    const notice = this.#unminded.delete(event.error?.event_id) ? null : noticeOf(event);
    if (!notice) return;
    if (notice.code === 'recorded' || notice.code === 'recorded_pictures') {
      // Each connection is told anew; the call is the same, also that of a page which was left and came back.
      const isKnown = this.recorded ? this.recorded === notice.code : this.#options.resume && this.#link?.isResumed;
      this.recorded = notice.code;
      this.#emit('recorded', { code: notice.code });
      if (isKnown) return;
    }
    this.#emit('notice', notice);
  }

  /** @param {any} event */
  #onSession({ type, session }) {
    const before = this.mode;
    this.session = session ?? {};
    if (type === 'session.created') {
      this.queue = null;
      this.#isComingBack = false;
      for (const event of this.#retelling.splice(0)) this.#deliver(event);
      if (!this.#link?.isResumed) this.#tellUntold();
      this.#wasServed = true;
      this.#comeback.succeeded();
      if (this.#link?.isResumed) this.#setAnew();
      this.#settle(null);
    }
    if (this.mode !== before) this.pushToTalk.stop();
    this.#openEar();
  }

  /** @param {string|undefined} eventId of what the server does not take: it is not told again */
  #forgetRefused(eventId) {
    for (const [id, event] of this.#unechoed) if (eventId && event.event_id === eventId) this.#unechoed.delete(id);
  }

  #tellUntold() {
    for (const event of this.#untold.splice(0)) this.#deliver(event);
  }

  /** @param {any[]} items of a session that goes on: what was written and did not arrive is told again */
  #onContinued(items) {
    const waiting = new Set(this.#untold.map((event) => event.item?.id));
    const arrived = new Set(items.map((item) => item.id));
    const lost = [...this.#unechoed].filter(([id]) => !arrived.has(id) && !waiting.has(id)).map(([, event]) => event);
    for (const event of lost) this.#deliver(event);
    if (lost.length) this.#wantAnswer();
    this.#tellUntold();
  }

  /** A session that went on in another process has forgotten the switches, and one of a page before has its own. */
  #setAnew() {
    this.send({ type: 'session.mute', on: this.#isMuted });
    this.send({ type: 'session.force_listen', on: this.#isHushed });
    if (this.#isPaused) this.send({ type: 'session.pause' });
  }

  /** @returns {Promise<RTCStatsReport|null>} of the connection now */
  async report() {
    return this.#link?.report() ?? null;
  }

  /** @param {import('./stats.js').Figures} figures */
  #tellFigures(figures) {
    this.figures = figures;
    this.#emit('figures', figures);
    this.#measured += 1;
    if (this.#measured % REPORT_EACH === 0 && this.session && this.#state === 'connected') this.#report(figures);
  }

  /** Tells the server how the call is on this side. @param {import('./stats.js').Figures} now */
  #report(now) {
    const known = REPORTED.filter((name) => now[name] !== null).map((name) => [name, now[name]]);
    const event = { type: 'session.stats', event_id: newId('event'), figures: Object.fromEntries(known) };
    // A server that does not know it says so, which is no news to people.
    this.#unminded.add(event.event_id);
    if (this.#unminded.size > MAX_UNTOLD) this.#unminded.delete([...this.#unminded][0]);
    this.#link?.send(event);
  }

  // ---- the end -----------------------------------------------------------------------------------------------

  /** @param {Ending} end that was chosen here */
  #finish(end) {
    const link = this.#link;
    this.#end(end);
    link?.end(end);
  }

  /** @param {Ending} end */
  #end(end) {
    if (this.#isEnded()) return;
    this.#comeback.cancel();
    this.#stopMeasuring();
    this.#untold.length = this.#retelling.length = 0;
    this.#become('ended');
    this.#link = null;
    this.#settle(end);
    this.pushToTalk.stop();
    this.captions.finish();
    this.#sources.close();
    this.#emit('ended', end);
  }

  // A method, because the state may change during an await and checkers narrow a plain comparison.
  #isEnded() {
    return this.#state === 'ended';
  }

  #newServed() {
    return new Promise((/** @type {(end: Ending|null) => void} */ resolve) => {
      this.#settle = resolve;
    });
  }

  /** @param {CallState} state */
  #become(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.#emit('state', { state });
  }

  /** @param {string} type @param {any} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
