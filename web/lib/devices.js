/** Microphone and camera as tracks for a call. Every failure is a `DeviceTrouble` of a known kind. */

const VOICE = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
/** 5 pictures a second keep a self view watchable; the encoder sends 2 (see link.js). */
const PICTURE = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 5, max: 5 } };

/** @typedef {'microphone'|'camera'} Kind */
/** @typedef {'insecure'|'denied'|'denied_by_system'|'none'|'in_use'|'withdrawn'|'failed'} TroubleKind */

/** A device could not be opened, and why. */
export class DeviceTrouble extends Error {
  /** @param {Kind} device @param {TroubleKind} kind @param {string} [message] the browser's */
  constructor(device, kind, message = '') {
    super(message);
    this.name = 'DeviceTrouble';
    this.device = device;
    this.kind = kind;
  }
}

/** Browsers hide all devices from pages that came over plain HTTP from another machine. */
export function areDevicesAvailable() {
  return Boolean(globalThis.navigator?.mediaDevices?.getUserMedia);
}

/**
 * @param {Kind} kind
 * @param {MediaTrackConstraints} [which]
 * @returns {Promise<MediaStreamTrack>} raises `DeviceTrouble`; whoever asked stops it
 */
export async function capture(kind, which = {}) {
  if (!areDevicesAvailable()) throw new DeviceTrouble(kind, 'insecure');
  const ask = (/** @type {MediaTrackConstraints} */ how) =>
    navigator.mediaDevices.getUserMedia(kind === 'camera' ? { video: how } : { audio: how });
  const quality = kind === 'camera' ? PICTURE : VOICE;
  try {
    // A camera may have no mode as slow as asked for (the encoder limits the rate anyway); a device may be gone.
    const stream = await ask({ ...quality, ...which })
      .catch(unlessOverconstrained(() => ask(which)))
      .catch(unlessOverconstrained(() => ask(quality)));
    const [track] = stream.getTracks();
    track.contentHint = kind === 'camera' ? 'detail' : 'speech';
    return track;
  } catch (error) {
    throw troubleOf(kind, /** @type {Error} */ (error));
  }
}

/** @param {() => Promise<MediaStream>} askLess */
function unlessOverconstrained(askLess) {
  return (/** @type {Error} */ error) => {
    if (error.name !== 'OverconstrainedError') throw error;
    return askLess();
  };
}

/** @param {Kind} kind @param {Error} error of getUserMedia */
function troubleOf(kind, error) {
  /** @type {Record<string, TroubleKind>} */
  const kinds = {
    NotAllowedError: /system/i.test(error.message) ? 'denied_by_system' : 'denied',
    SecurityError: 'insecure',
    NotFoundError: 'none',
    NotReadableError: 'in_use',
    AbortError: 'in_use',
  };
  return new DeviceTrouble(kind, kinds[error.name] ?? 'failed', error.message);
}

/** @type {Record<TroubleKind, string>} */
const WORDS = {
  insecure: 'needs a page opened with https:// or from localhost',
  denied: 'is blocked for this page',
  denied_by_system: 'is kept from the browser by the system',
  none: 'was not found',
  in_use: 'could not be started; another program may be using it',
  withdrawn: 'is not asked for any more',
  failed: 'did not start',
};

/** @param {DeviceTrouble} trouble @returns {string} for people */
export function troubleText({ device, kind, message }) {
  return `The ${device} ${WORDS[kind]}.${kind === 'failed' && message ? ` The browser said: ${message}` : ''}`;
}

/** @typedef {MediaStreamTrack|MediaTrackConstraints|boolean|null|undefined} Source what to use as a microphone or camera */

/**
 * The microphone and the camera of one call. Tracks that it captured are its own and stopped by it; tracks that it
 * was given stay with whoever gave them.
 *
 * Events: `lost` {kind} when one was unplugged or taken away.
 */
export class Sources extends EventTarget {
  /** @type {Record<Kind, MediaStreamTrack|null>} */ #tracks = { microphone: null, camera: null };
  /** @type {Set<MediaStreamTrack>} */ #own = new Set();

  get microphone() {
    return this.#tracks.microphone;
  }

  get camera() {
    return this.#tracks.camera;
  }

  /**
   * @param {Kind} kind
   * @param {Source} source true is the system's choice, constraints are captured, a track is used, all else is none
   * @returns {Promise<MediaStreamTrack|null>} in use from now on; raises `DeviceTrouble`, then all stays as it was
   */
  async use(kind, source) {
    if (!source || isTrack(source)) return this.#take(kind, source || null);
    const track = await capture(kind, source === true ? {} : source);
    this.#own.add(track);
    return this.#take(kind, track);
  }

  close() {
    for (const kind of /** @type {Kind[]} */ (['microphone', 'camera'])) this.#take(kind, null);
  }

  /** @param {Kind} kind @param {MediaStreamTrack|null} track */
  #take(kind, track) {
    const before = this.#tracks[kind];
    this.#tracks[kind] = track;
    if (before && before !== track && this.#own.delete(before)) before.stop();
    track?.addEventListener('ended', () => {
      if (this.#tracks[kind] !== track) return;
      this.#tracks[kind] = null;
      this.dispatchEvent(new CustomEvent('lost', { detail: { kind } }));
    });
    return track;
  }
}

/** @param {Exclude<Source, false|null|undefined>} source @returns {source is MediaStreamTrack} */
function isTrack(source) {
  return typeof source === 'object' && typeof (/** @type {any} */ (source).stop) === 'function';
}
