/**
 * Microphone, camera and speaker choice. Owns the captured tracks: nothing else stops them.
 *
 * Events: `list` when the choices changed, `lost` {kind} when a device in use disappeared.
 */

import { DeviceTrouble, areDevicesAvailable, capture } from '../lib/devices.js';
import { memory } from './memory.js';

/** @typedef {import('../lib/devices.js').Kind} Kind */

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

  get available() {
    return areDevicesAvailable();
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
