/**
 * Microphone, camera and speaker choice. Owns the captured tracks: nothing else stops them.
 *
 * Events: `list` when the choices changed, `lost` {kind} when a device in use disappeared.
 */

import { memory } from './dom.js';

const VOICE = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
/** 5 pictures a second keep the self view watchable; the encoder sends 2 (see call.js). */
const PICTURE = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 5, max: 5 } };

/** @typedef {'microphone'|'camera'} Kind */
/** @typedef {'insecure'|'denied'|'denied_by_system'|'none'|'in_use'|'withdrawn'|'failed'} TroubleKind */

/** A device could not be opened, and why. */
export class DeviceTrouble extends Error {
  /** @param {Kind} device @param {TroubleKind} kind @param {string} [message] */
  constructor(device, kind, message = '') {
    super(message);
    this.name = 'DeviceTrouble';
    this.device = device;
    this.kind = kind;
  }
}

export class Devices extends EventTarget {
  /** @type {Record<Kind, MediaStreamTrack|null>} */
  #tracks = { microphone: null, camera: null };
  /** Counts requests, so that of two overlapping ones only the later keeps its device. */
  #turn = { microphone: 0, camera: 0 };
  /** @type {MediaDeviceInfo[]} */
  #list = [];

  constructor() {
    super();
    navigator.mediaDevices?.addEventListener?.('devicechange', () => this.refresh());
  }

  /** Browsers hide all devices from pages that came over plain HTTP from another machine. */
  get available() {
    return Boolean(navigator.mediaDevices?.getUserMedia);
  }

  get microphone() {
    return this.#tracks.microphone;
  }

  get camera() {
    return this.#tracks.camera;
  }

  /** @param {MediaDeviceKind} kind */
  choices(kind) {
    return this.#list.filter((device) => device.kind === kind);
  }

  async refresh() {
    try {
      this.#list = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    } catch {
      this.#list = [];
    }
    this.dispatchEvent(new Event('list'));
  }

  /** @param {Kind} kind the device now in use, or else the one chosen last */
  chosen(kind) {
    return this.#tracks[kind]?.getSettings().deviceId ?? memory.read(kind);
  }

  /** @param {Kind} kind @param {string} deviceId for the next `open`; '' is the system's choice */
  choose(kind, deviceId) {
    memory.write(kind, deviceId);
  }

  /**
   * Opens the chosen device in place of the one in use.
   * @param {Kind} kind
   * @returns {Promise<MediaStreamTrack>}
   * @throws {DeviceTrouble}
   */
  async open(kind) {
    const id = memory.read(kind);
    return this.#open(kind, id ? { deviceId: { exact: id } } : {});
  }

  /**
   * The other side of a phone, or the next camera of a computer.
   * @returns {Promise<MediaStreamTrack>}
   * @throws {DeviceTrouble}
   */
  async flip() {
    const settings = this.camera?.getSettings() ?? {};
    if (settings.facingMode) {
      const facingMode = { ideal: settings.facingMode === 'environment' ? 'user' : 'environment' };
      return this.#open('camera', { facingMode });
    }
    const ids = this.choices('videoinput').map((device) => device.deviceId);
    this.choose('camera', ids[(ids.indexOf(settings.deviceId ?? '') + 1) % ids.length] ?? '');
    return this.open('camera');
  }

  /** @param {Kind} kind */
  close(kind) {
    this.#turn[kind] += 1;
    this.#tracks[kind]?.stop();
    this.#tracks[kind] = null;
  }

  closeAll() {
    this.close('microphone');
    this.close('camera');
  }

  /** @param {Kind} kind @param {MediaTrackConstraints} which */
  async #open(kind, which) {
    if (!this.available) throw new DeviceTrouble(kind, 'insecure');
    const turn = ++this.#turn[kind];
    // Phones cannot open a second camera while the first is in use.
    if (kind === 'camera') this.#tracks.camera?.stop();
    const track = await capture(kind, which);
    if (turn !== this.#turn[kind]) {
      track.stop();
      const current = this.#tracks[kind];
      if (current) return current;
      throw new DeviceTrouble(kind, 'withdrawn');
    }
    this.#tracks[kind]?.stop();
    this.#tracks[kind] = track;
    track.addEventListener('ended', () => this.#onEnded(kind, track));
    await this.refresh();
    return track;
  }

  /** @param {Kind} kind @param {MediaStreamTrack} track ended by the system, not by `stop()` */
  #onEnded(kind, track) {
    if (this.#tracks[kind] !== track) return;
    this.#tracks[kind] = null;
    this.dispatchEvent(new CustomEvent('lost', { detail: { kind } }));
  }
}

/**
 * @param {Kind} kind
 * @param {MediaTrackConstraints} which
 */
async function capture(kind, which) {
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
