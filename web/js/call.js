/**
 * One call: the life of one RTCPeerConnection and its data channel. Knows nothing of the page.
 *
 * Events: `state` {state}, `message` {server event}, `sent` {client event}, `audio` {stream}, `mark` {name},
 * and, last and once, `ended` {Ending}.
 */

import { Refusal, callEnding, postHangup, postItem, postOffer } from './server.js';

/** The model looks at two pictures a second; more would only cost the phone's battery and the server's decoder. */
const VIDEO_ENCODING = { maxFramerate: 2, maxBitrate: 300_000 };
const CONNECT_DEADLINE_MS = 15_000;
/** ICE often recovers from a Wi-Fi hand-over within a few seconds. */
const DISCONNECTED_GRACE_MS = 6_000;
/** When the process that carries the call dies, nothing more comes from it: only asking the server tells. */
const ASK_INTERVAL_MS = 3_000;
/** The server's last event may still be in flight when the channel closes. */
const LAST_WORDS_MS = 300;
const MAX_UNSENT = 16;

/** @typedef {'new'|'calling'|'connecting'|'connected'|'reconnecting'|'ended'} CallState */

/**
 * @typedef {Object} Ending
 * @property {'hangup'|'left'|'refused'|'no_path'|'lost'|'server'|'browser'} kind
 * @property {string} [reason] the server's word for it
 * @property {string} [message]
 * @property {Refusal} [refusal]
 */

export class Call extends EventTarget {
  /** @type {RTCPeerConnection|null} */ #pc = null;
  /** @type {RTCDataChannel|null} */ #channel = null;
  /** @type {RTCRtpSender|null} */ #audioSender = null;
  /** @type {RTCRtpSender|null} */ #videoSender = null;
  /** @type {CallState} */ #state = 'new';
  /** @type {Record<string, any>[]} */ #unsent = [];
  /** @type {Map<string, number>} */ #timers = new Map();
  #path = '';
  #wasConnected = false;
  /** @type {(isThere: boolean) => void} */ #settle = () => {};
  /** Whether there is a session to talk to; settled when it began, or when the call ended before. */
  hasSession = new Promise((/** @type {(isThere: boolean) => void} */ resolve) => {
    this.#settle = resolve;
  });

  /**
   * @param {Object} options
   * @param {RTCIceServer[]} options.iceServers
   * @param {MediaStreamTrack|null} options.microphone null places a call that only listens
   * @param {MediaStreamTrack|null} options.camera null: may come later, without renegotiation
   * @param {boolean} options.video whether to offer a video line at all
   * @param {Record<string, any>} [options.session] session settings for the server
   */
  constructor({ iceServers, microphone, camera, video, session }) {
    super();
    this.iceServers = iceServers;
    this.microphone = microphone;
    this.camera = camera;
    this.video = video;
    this.session = { type: 'realtime', output_modalities: ['audio'], ...session };
    this.listenOnly = !microphone;
  }

  /** @returns {CallState} */
  get state() {
    return this.#state;
  }

  /** The server's id of this call, '' until it answered. */
  get id() {
    return this.#path.split('/').pop() ?? '';
  }

  /** Offers without waiting for ICE candidates: the server answers with its own and learns ours from the checks. */
  async place() {
    this.#become('calling');
    try {
      const offer = await this.#prepare();
      if (this.#isEnded()) return;
      this.#emit('mark', { name: 'offer_posted' });
      const answer = await postOffer(offer, this.session);
      this.#path = answer.path;
      if (this.#isEnded()) {
        // Hung up while the server was answering.
        this.#tellServer();
        return;
      }
      this.#emit('mark', { name: 'answered' });
      this.#become('connecting');
      this.#after('connect', CONNECT_DEADLINE_MS, () => this.#end({ kind: 'no_path' }));
      this.#after('ask', ASK_INTERVAL_MS, () => this.#ask());
      await this.#pc?.setRemoteDescription({ type: 'answer', sdp: answer.sdp });
    } catch (error) {
      if (error instanceof Refusal) this.#end({ kind: 'refused', refusal: error });
      else this.#end({ kind: 'browser', message: String(error) });
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
    this.#audioSender = this.microphone
      ? pc.addTransceiver(this.microphone, { direction: 'sendrecv', streams: [new MediaStream([this.microphone])] }).sender
      : (pc.addTransceiver('audio', { direction: 'recvonly' }), null);
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
    channel.addEventListener('open', () => {
      this.#emit('mark', { name: 'channel_open' });
      for (const event of this.#unsent.splice(0)) this.send(event);
    });
    channel.addEventListener('close', () => {
      this.#after('close', LAST_WORDS_MS, () => this.#end({ kind: 'lost' }));
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
    if (event.type === 'session.created') this.#settle(true);
    this.#emit('message', event);
    if (event.type === 'session.ended') {
      this.#end({ kind: 'server', reason: String(event.reason ?? ''), message: String(event.message ?? '') });
    }
  }

  /** @param {RTCPeerConnectionState} state */
  #onConnection(state) {
    if (this.#isEnded()) return;
    if (state === 'connected') {
      this.#cancel('connect');
      this.#cancel('disconnected');
      if (!this.#wasConnected) this.#emit('mark', { name: 'connected' });
      this.#wasConnected = true;
      this.#become('connected');
    } else if (state === 'disconnected') {
      this.#become('reconnecting');
      this.#after('disconnected', DISCONNECTED_GRACE_MS, () => this.#end({ kind: 'lost' }));
      // A server that knows nothing of this call any more will not bring it back.
      this.#ask();
    } else if (state === 'failed') {
      this.#end({ kind: this.#wasConnected ? 'lost' : 'no_path' });
    }
  }

  /** Asks the server whether it still has this call, and again after a while. */
  async #ask() {
    if (!this.#path) return;
    const gone = await callEnding(this.#path);
    if (gone?.reason) this.#end({ kind: 'server', ...gone });
    else if (gone) this.#end({ kind: 'lost' });
    else this.#after('ask', ASK_INTERVAL_MS, () => this.#ask());
  }

  /**
   * Sends a client event, or keeps it until the channel opens (the newest 16).
   * @param {Record<string, any>} event
   */
  send(event) {
    if (this.#isEnded()) return;
    if (this.#channel?.readyState === 'open') {
      this.#channel.send(JSON.stringify(event));
      this.#emit('sent', event);
      return;
    }
    this.#unsent.push(event);
    if (this.#unsent.length > MAX_UNSENT) this.#unsent.shift();
  }

  /**
   * Says something in writing.
   * @param {string} text
   * @returns {string} the item's id
   */
  write(text) {
    const id = newItemId();
    const content = [{ type: 'input_text', text }];
    this.send({ type: 'conversation.item.create', item: { id, type: 'message', role: 'user', content } });
    this.#wantAnswer();
    return id;
  }

  /**
   * Says something with a file, in writing or without a word.
   * @param {string} id of the item
   * @param {Record<string, any>} part
   * @param {string} text
   * @param {(fraction: number) => void} onProgress
   * @returns {Promise<void>} when the server has it; raises `Refusal`
   */
  async upload(id, part, text, onProgress) {
    if (!(await this.hasSession)) throw new Refusal('away', 'The call is over.');
    const content = text ? [part, { type: 'input_text', text }] : [part];
    await postItem(this.#path, { id, type: 'message', role: 'user', content }, onProgress);
    this.#wantAnswer();
  }

  /** @param {Record<string, any>} session settings to change @returns {string} the event's id, which an error names */
  update(session) {
    const eventId = `event_${randomHex(12)}`;
    this.send({ type: 'session.update', event_id: eventId, session: { type: 'realtime', ...session } });
    return eventId;
  }

  /** Forgets what was heard and not yet answered. */
  clearInput() {
    this.send({ type: 'input_audio_buffer.clear' });
  }

  /** What was heard is a turn of the user, which wants an answer. */
  commitInput() {
    this.send({ type: 'input_audio_buffer.commit' });
    this.#wantAnswer();
  }

  /** Wants an answer to what was said last; one that is still under way gives way to it. */
  #wantAnswer() {
    // Clearing what does not play is no error, and no event of the server's can come in between.
    this.send({ type: 'output_audio_buffer.clear' });
    this.send({ type: 'response.create' });
  }

  /** Stops the answer now: first what is already on its way to the ear, then what is still being made. */
  interrupt() {
    this.send({ type: 'output_audio_buffer.clear' });
    this.send({ type: 'response.cancel' });
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

  hangUp() {
    this.#end({ kind: 'hangup' });
  }

  /** The page is going away: nothing after this is certain to run. */
  leave() {
    this.#end({ kind: 'left' });
  }

  /** @param {Ending} ending */
  #end(ending) {
    if (this.#isEnded()) return;
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
    this.#unsent.length = 0;
    this.#become('ended');
    this.#settle(false);
    if (ending.kind !== 'server') this.#tellServer();
    this.#channel?.close();
    this.#pc?.close();
    this.#emit('ended', ending);
  }

  #tellServer() {
    if (this.#path) postHangup(this.#path);
  }

  // A method, because the state may change during an await and checkers narrow a plain comparison.
  #isEnded() {
    return this.#state === 'ended';
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

  /** @param {string} name @param {number} delay_ms @param {() => void} action */
  #after(name, delay_ms, action) {
    if (this.#isEnded()) return;
    this.#cancel(name);
    this.#timers.set(name, window.setTimeout(action, delay_ms));
  }

  /** @param {string} name */
  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/** @returns {string} */
export function newItemId() {
  return `item_${randomHex(12)}`;
}

/** @param {number} bytes `crypto.randomUUID` is missing on plain-HTTP pages */
function randomHex(bytes) {
  const values = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(values, (value) => value.toString(16).padStart(2, '0')).join('');
}
