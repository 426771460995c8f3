/** A browser's peer connection and a server at its other end, for tests without either. */

/** @typedef {{type: string, [field: string]: any}} Told */

/** The newest connection is the last; `refuse` answers the next offers with a status. */
export class Line {
  /** @type {FakePeer[]} */ static peers = [];
  /** @type {any[]} sessions of the offers */ static offered = [];
  /** @type {string[]} ids of calls that were hung up */ static hungUp = [];
  /** @type {number[]} */ static refuse = [];
  /** What offers show to resume a session; 'new' for none. @type {string[]} */ static resumes = [];
  /** Calls that were placed. */ static calls = 0;
  /** Whether the server lets sessions be resumed. */ static isKeeping = false;
  /** ICE restarts that were asked for; each succeeds. @type {string[]|null} null: they fail */ static restarts = null;

  static reset() {
    Line.peers = [];
    Line.offered = [];
    Line.hungUp = [];
    Line.refuse = [];
    Line.resumes = [];
    Line.isKeeping = false;
    Line.calls = 0;
    Line.restarts = null;
    Object.assign(globalThis, { RTCPeerConnection: FakePeer, MediaStream: class {}, fetch: answer });
  }

  static get now() {
    return /** @type {FakePeer} */ (Line.peers.at(-1));
  }
}

/** @param {any} url @param {any} [init] */
async function answer(url, init) {
  const path = new URL(url).pathname;
  if (path.endsWith('/hangup')) {
    Line.hungUp.push(String(path.split('/').at(-2)));
    return new Response('{}');
  }
  if (init.method === 'PATCH') {
    if (!Line.restarts) return new Response('{}', { status: 409 });
    Line.restarts.push(init.body);
    return new Response('a=ice-ufrag:new\r\na=ice-pwd:secret\r\na=candidate:1\r\n');
  }
  if (path.startsWith('/v1/realtime/calls/')) return new Response('{}');
  const status = Line.refuse.shift();
  if (status) return new Response('{"error": {"message": "Not now."}}', { status });
  Line.offered.push(JSON.parse(init.body.get('session')));
  const resumes = init.headers['Omnicall-Resume'];
  Line.resumes.push(resumes);
  const isNew = resumes === 'new';
  Line.calls += Number(isNew);
  const headers = { Location: `/v1/realtime/calls/rtc_${Line.calls}` };
  return new Response('answer', { status: 201, headers: Line.isKeeping ? { ...headers, 'Omnicall-Resume': `token_${Line.calls}` } : headers });
}

class FakeChannel extends EventTarget {
  readyState = 'connecting';
  /** @type {Told[]} */ sent = [];

  /** @param {string} text */
  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 'closed';
  }
}

export class FakePeer extends EventTarget {
  connectionState = 'new';
  signalingState = 'stable';
  /** @type {any[]} */ remote = [];
  received = 0;
  /** Bytes that come between two looks at them. */ flow = 0;
  looks = 0;
  /** So many descriptions are refused next. */ refusals = 0;
  /** The share of our sound that the server reports as lost. */ missed = 0;
  localDescription = { sdp: 'offer' };
  channel = new FakeChannel();
  /** @type {any[]} */ replaced = [];

  constructor() {
    super();
    Line.peers.push(this);
  }

  createDataChannel() {
    return this.channel;
  }

  addTransceiver() {
    return { sender: { replaceTrack: async (/** @type {any} */ track) => this.replaced.push(track) } };
  }

  async createOffer() {}

  /** @param {any} [description] */
  async setLocalDescription(description) {
    this.signalingState = description?.type === 'rollback' ? 'stable' : 'have-local-offer';
  }

  /** @param {any} description */
  async setRemoteDescription(description) {
    if (this.refusals) {
      this.refusals -= 1;
      throw new Error('refused');
    }
    this.signalingState = 'stable';
    this.remoteDescription = description;
    this.remote.push(description.sdp);
  }

  async getStats() {
    this.looks += 1;
    this.received += this.flow;
    const told = { type: 'remote-inbound-rtp', kind: 'audio', fractionLost: this.missed };
    return new Map([['t', { type: 'transport', bytesReceived: this.received }], ['r', told]]);
  }

  close() {}

  /** @param {string} state */
  become(state) {
    this.connectionState = state;
    this.dispatchEvent(new Event('connectionstatechange'));
  }

  /** The server takes the call, and serves it unless there is a queue. */
  connect(isServed = true) {
    this.become('connected');
    this.channel.readyState = 'open';
    this.channel.dispatchEvent(new Event('open'));
    if (isServed) this.tell({ type: 'session.created', session: {} });
  }

  /** @param {Told} event of the server */
  tell(event) {
    this.channel.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(event) }));
  }

  /** @returns {string[]} */
  get sentTypes() {
    return this.channel.sent.map((event) => event.type);
  }
}

/** @param {() => unknown} isSo */
export async function until(isSo) {
  for (let tries = 0; !isSo(); tries += 1) {
    if (tries > 2000) throw new Error(`never came true: ${isSo}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
