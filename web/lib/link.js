/**
 * One connection to the server: a peer connection, its data channel, and the end of both. A call may need several.
 *
 * Events: `state` {state}, `message` {server event}, `audio` {stream}, `mark` {name},
 * and, last and once, `ended` {Ending}.
 */

import { fragmentOf, withCopies, withFragment } from './comeback.js';
import { ending } from './endings.js';
import { Refusal } from './server.js';

/** The model looks at two pictures a second; more would only cost the phone's battery and the server's decoder. */
const VIDEO_ENCODING = { maxFramerate: 2, maxBitrate: 300_000 };
const CONNECT_DEADLINE_MS = 15_000;
/** For so long a disturbed connection may mend itself; a little less than servers wait for it. */
const MOST_DISTURBED_MS = 28_000;
/** A new ICE session that brings nothing by then has found no way. */
const RESTARTED_MS = 2_000;
/** When the process that carries the call dies, nothing more comes from it: only asking the server tells. */
const ASK_INTERVAL_MS = 3_000;
/**
 * What has come is looked at this often: after one look without news the server is asked whether it still has the call,
 * after so many another way to it is looked for.
 */
const LOOK_MS = 300;
const LOOK_DISTURBED_MS = 250;
const QUIET_LOOKS = 5;
const AT_ONCE_MS = 1_000;
/** The server's last event may still be in flight when the channel closes. */
const LAST_WORDS_MS = 300;
/** From this share of our packets on that the server misses, they are sent with copies of earlier ones; so long after it, too. */
const MISSED_FOR_COPIES = 0.03;
const COPIES_MS = 20_000;
/** A change to or from copies that fails is tried so often in a row, a look apart; then the sound stays as it is. */
const COPY_TRIES = 3;
const GOODBYE_MS = 500;

/** @typedef {import('./endings.js').Ending} Ending */
/** @typedef {'new'|'calling'|'connecting'|'connected'|'disturbed'|'ended'} LinkState `disturbed`: it may mend itself */

export class Link extends EventTarget {
  /** @type {RTCPeerConnection|null} */ #pc = null;
  /** @type {RTCDataChannel|null} */ #channel = null;
  /** @type {RTCRtpSender|null} */ #audioSender = null;
  /** @type {RTCRtpSender|null} */ #videoSender = null;
  /** @type {LinkState} */ #state = 'new';
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */ #timers = new Map();
  #wasConnected = false;
  /** Bytes that had come at the last look. @type {number|null} */ #received = null;
  /** Looks without news. */
  #quiet = 0;
  /** A description is being changed. */
  #isNegotiating = false;
  #hasCopies = false;
  #copiesUntil_ms = 0;
  /** Changes to or from copies that failed since the last one that did not. */
  #copyFailures = 0;
  /** The server's id of this call, '' until it answered. */
  id = '';
  /** What resumes the session over another connection, '' if nothing does. */
  token = '';
  /** Whether the session was there before this connection. */
  isResumed = false;
  #onNetwork = () => this.mend();

  /**
   * @param {Object} options
   * @param {import('./server.js').Server} options.server
   * @param {RTCIceServer[]} options.iceServers
   * @param {MediaStreamTrack|null} options.microphone null: may come later, without renegotiation
   * @param {MediaStreamTrack|null} options.camera null: may come later, without renegotiation
   * @param {boolean} options.video whether to offer a video line at all
   * @param {Record<string, any>} options.session settings for the server
   * @param {string} [options.token] of the session that goes on over this connection
   */
  constructor({ server, iceServers, microphone, camera, video, session, token = '' }) {
    super();
    this.server = server;
    this.iceServers = iceServers;
    this.microphone = microphone;
    this.camera = camera;
    this.video = video;
    this.session = session;
    this.token = token;
  }

  /** @returns {LinkState} */
  get state() {
    return this.#state;
  }

  /** Offers without waiting for ICE candidates: the server answers with its own and learns ours from the checks. */
  async place() {
    this.#become('calling');
    try {
      const offer = await this.#prepare();
      if (this.#isEnded()) return;
      this.#emit('mark', { name: 'offer_posted' });
      const answer = await this.server.offer(offer, this.session, this.token);
      this.isResumed = Boolean(this.token);
      this.id = answer.id;
      this.token = answer.token;
      if (this.#isEnded()) {
        // Hung up while the server was answering.
        this.#tellServer();
        return;
      }
      this.#emit('mark', { name: 'answered' });
      this.#become('connecting');
      this.#after('connect', CONNECT_DEADLINE_MS, () => this.end(ending('no_path')));
      this.#after('ask', ASK_INTERVAL_MS, () => this.#ask());
      await this.#pc?.setRemoteDescription({ type: 'answer', sdp: answer.sdp });
    } catch (error) {
      if (error instanceof Refusal) this.end(ending('refused', { refusal: error }));
      else this.end(ending('browser', { message: String(error) }));
    }
  }

  /** @returns {Promise<string>} the offer's SDP */
  async #prepare() {
    const pc = new RTCPeerConnection({ iceServers: this.iceServers });
    this.#pc = pc;
    pc.addEventListener('connectionstatechange', () => this.#onConnection(pc.connectionState));
    pc.addEventListener('track', ({ track, streams }) => {
      if (track.kind === 'audio') this.#emit('audio', { stream: streams[0] ?? new MediaStream([track]) });
    });
    this.#openChannel(pc.createDataChannel('oai-events'));
    // Without a microphone nothing is sent, but one may come later without renegotiation.
    this.#audioSender = pc.addTransceiver(this.microphone ?? 'audio', {
      direction: 'sendrecv',
      streams: this.microphone ? [new MediaStream([this.microphone])] : [],
    }).sender;
    if (this.video) {
      const options = /** @type {RTCRtpTransceiverInit} */ ({ direction: 'sendonly', sendEncodings: [VIDEO_ENCODING] });
      this.#videoSender = pc.addTransceiver(this.camera ?? 'video', options).sender;
    }
    await pc.setLocalDescription(await pc.createOffer());
    return pc.localDescription?.sdp ?? '';
  }

  /** @param {RTCDataChannel} channel */
  #openChannel(channel) {
    this.#channel = channel;
    channel.addEventListener('open', () => this.#emit('mark', { name: 'channel_open' }));
    channel.addEventListener('close', () => {
      this.#after('close', LAST_WORDS_MS, () => this.end(ending('lost')));
    });
    channel.addEventListener('message', ({ data }) => this.#onMessage(data));
  }

  /** @param {any} data */
  #onMessage(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    if (typeof event?.type !== 'string') return;
    this.#emit('message', event);
    if (event.type === 'session.ended') {
      this.end(ending('server', { reason: String(event.reason ?? ''), message: String(event.message ?? '') }));
    }
  }

  /** @param {RTCPeerConnectionState} state */
  #onConnection(state) {
    if (this.#isEnded()) return;
    if (state === 'connected') {
      this.#cancel('connect');
      this.#cancel('disturbed');
      if (!this.#wasConnected) {
        this.#emit('mark', { name: 'connected' });
        this.#after('watch', LOOK_MS, () => this.#watch());
        for (const target of networkSigns()) target.addEventListener(target === globalThis ? 'online' : 'change', this.#onNetwork);
      }
      this.#wasConnected = true;
      this.#become('connected');
    } else if (state === 'disconnected' || (state === 'failed' && this.#wasConnected)) {
      this.#disturb();
      this.mend();
    } else if (state === 'failed') {
      this.end(ending('no_path'));
    }
  }

  #disturb() {
    this.#become('disturbed');
    if (!this.#timers.has('disturbed')) this.#after('disturbed', MOST_DISTURBED_MS, () => this.end(ending('lost')));
  }

  /** Asks the server whether it still has this call, and again after a while. */
  async #ask() {
    if (!this.id) return;
    this.#judge(await this.server.endingOf(this.id));
    this.#after('ask', ASK_INTERVAL_MS, () => this.#ask());
  }

  /** @param {{reason: string, message: string}|null|undefined} gone what the server says of this call */
  #judge(gone) {
    if (gone?.reason) this.end(ending('server', gone));
    else if (gone) this.end(ending('lost'));
  }

  /**
   * Long before ICE gives up, a server that neither sends nor answers is gone; it may come back with the network.
   */
  async #watch() {
    const before = this.#received;
    await this.#count();
    this.#quiet = before !== null && before === this.#received ? this.#quiet + 1 : 0;
    if (!this.#quiet && this.#state === 'disturbed' && this.#pc?.connectionState === 'connected') this.#mended();
    else if (this.#quiet >= QUIET_LOOKS || this.#state === 'disturbed') await this.mend();
    else if (this.#quiet === 1) this.server.endingOf(this.id, AT_ONCE_MS).then((gone) => this.#judge(gone));
    this.#after('watch', this.#state === 'disturbed' ? LOOK_DISTURBED_MS : LOOK_MS, () => this.#watch());
  }

  async #count() {
    const report = await this.report().catch(() => null);
    report?.forEach((row) => {
      if (row.type === 'transport') this.#received = row.bytesReceived ?? null;
      if (row.type === 'remote-inbound-rtp' && row.kind === 'audio') this.#followLoss(row.fractionLost ?? 0);
    });
  }

  /** @param {number} missed the share of our sound that the server last reported as lost, 0 to 1 */
  #followLoss(missed) {
    const now_ms = performance.now();
    if (missed >= MISSED_FOR_COPIES) this.#copiesUntil_ms = now_ms + COPIES_MS;
    const isWanted = now_ms < this.#copiesUntil_ms;
    if (isWanted !== this.#hasCopies && this.#copyFailures < COPY_TRIES) this.#sendCopies(isWanted);
  }

  /** Browsers send the first format of the answer, and take another order of what the server has agreed to without asking it. */
  async #sendCopies(/** @type {boolean} */ isWanted) {
    const pc = this.#pc;
    const answer = pc?.remoteDescription?.sdp;
    if (!pc || !answer || this.#isEnded() || this.#isNegotiating || pc.signalingState !== 'stable') return;
    const sdp = withCopies(answer, isWanted);
    this.#isNegotiating = true;
    try {
      if (sdp !== answer) {
        await pc.setLocalDescription(await pc.createOffer());
        await pc.setRemoteDescription({ type: 'answer', sdp });
      }
      this.#hasCopies = isWanted;
      this.#copyFailures = 0;
    } catch {
      // It goes on as it was.
      this.#copyFailures += 1;
      await pc.setLocalDescription({ type: 'rollback' }).catch(() => undefined);
    } finally {
      this.#isNegotiating = false;
    }
  }

  /** Nothing comes, or the network has changed: as soon as the server answers, another way to it is looked for. */
  async mend() {
    if (this.#isEnded() || !this.id || this.#isNegotiating) return;
    this.#isNegotiating = true;
    try {
      const gone = await this.server.endingOf(this.id, AT_ONCE_MS);
      this.#judge(gone);
      if (this.#isEnded()) return;
      if (this.#quiet) this.#disturb();
      // What is said over HTTP may be heard again a little before media is.
      const hasFailed = this.#pc?.connectionState === 'failed';
      if (gone === null && (hasFailed || (await this.#isStillQuiet()))) await this.#restartIce();
    } finally {
      this.#isNegotiating = false;
    }
  }

  async #isStillQuiet() {
    const before = this.#received;
    await new Promise((resolve) => setTimeout(resolve, LOOK_DISTURBED_MS));
    await this.#count();
    return before !== null && before === this.#received;
  }

  async #restartIce() {
    const pc = this.#pc;
    if (!pc || this.#isEnded() || pc.signalingState !== 'stable') return;
    try {
      await pc.setLocalDescription(await pc.createOffer({ iceRestart: true }));
      const fragment = await this.server.restartIce(this.id, fragmentOf(pc.localDescription?.sdp ?? ''));
      const sdp = withFragment(pc.remoteDescription?.sdp ?? '', fragment);
      await pc.setRemoteDescription({ type: 'answer', sdp });
    } catch {
      this.end(ending('lost'));
      return;
    }
    const before = this.#received;
    for (let waited_ms = 0; waited_ms < RESTARTED_MS && !this.#isEnded(); waited_ms += LOOK_DISTURBED_MS) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_DISTURBED_MS));
      await this.#count();
      if (before === null || before !== this.#received) return;
    }
    this.end(ending('lost'));
  }

  #mended() {
    this.#cancel('disturbed');
    this.#become('connected');
  }

  /** @param {Record<string, any>} event @returns {boolean} whether it was sent */
  send(event) {
    if (this.#channel?.readyState !== 'open' || this.#isEnded()) return false;
    this.#channel.send(JSON.stringify(event));
    return true;
  }

  /** @param {MediaStreamTrack|null} track */
  async replaceMicrophone(track) {
    this.microphone = track;
    if (!this.#isEnded()) await this.#audioSender?.replaceTrack(track);
  }

  /** @param {MediaStreamTrack|null} track */
  async replaceCamera(track) {
    this.camera = track;
    if (!this.#isEnded()) await this.#videoSender?.replaceTrack(track);
  }

  /** @returns {Promise<RTCStatsReport|null>} */
  async report() {
    if (!this.#pc || this.#isEnded()) return null;
    return this.#pc.getStats();
  }

  /** @param {Ending} how */
  end(how) {
    if (this.#isEnded()) {
      // Between two connections nothing else tells the server that nobody comes back.
      if (this.token && how.kind === 'hangup') this.#tellServer();
      return;
    }
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
    for (const target of networkSigns()) target.removeEventListener(target === globalThis ? 'online' : 'change', this.#onNetwork);
    this.#become('ended');
    this.#close(how);
    this.#emit('ended', how);
  }

  /** @param {Ending} how */
  async #close({ kind }) {
    // What still comes is not heard; the connection stays for as long as the server takes to be told, because one that
    // sees its peer go first does not know the call any more.
    for (const { track } of this.#pc?.getReceivers?.() ?? []) track.stop();
    // A session that can be resumed waits for that.
    const isAwaited = this.token && ['lost', 'no_path', 'away'].includes(kind);
    const told = kind === 'server' || isAwaited ? undefined : this.#tellServer();
    if (kind !== 'left') await Promise.race([told, new Promise((resolve) => setTimeout(resolve, GOODBYE_MS))]);
    this.#channel?.close();
    this.#pc?.close();
  }

  /** @returns {Promise<void>|undefined} */
  #tellServer() {
    return this.id ? this.server.hangUp(this.id) : undefined;
  }

  // A method, because the state may change during an await and checkers narrow a plain comparison.
  #isEnded() {
    return this.#state === 'ended';
  }

  /** @param {LinkState} state */
  #become(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.#emit('state', { state });
  }

  /** @param {string} type @param {any} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** @param {string} name @param {number} delay_ms @param {() => void} action */
  #after(name, delay_ms, action) {
    if (this.#isEnded()) return;
    this.#cancel(name);
    this.#timers.set(name, setTimeout(action, delay_ms));
  }

  /** @param {string} name */
  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/** @returns {EventTarget[]} what tells of another network */
function networkSigns() {
  const { connection } = /** @type {any} */ (globalThis.navigator ?? {});
  return [globalThis, connection].filter((target) => typeof target?.addEventListener === 'function');
}
