/** The microphone, camera and loudspeaker selectors. */

import { byId, make } from './dom.js';
import { t, tongue } from './i18n.js';
import { memory } from './memory.js';

/** @typedef {import('./devices.js').Devices} Devices */

const NOUNS = { audioinput: 'device.microphone', videoinput: 'device.camera', audiooutput: 'device.speaker' };

export class Selectors {
  /**
   * @param {Devices} devices
   * @param {HTMLAudioElement} audio plays on the chosen loudspeaker
   * @param {(kind: 'microphone'|'camera') => void} onChoice after the choice was stored
   */
  constructor(devices, audio, onChoice) {
    this.devices = devices;
    this.audio = audio;
    for (const [id, kind] of /** @type {const} */ ([['mic', 'microphone'], ['camera', 'camera']])) {
      const select = byId(id);
      select.addEventListener('change', () => {
        devices.choose(kind, select.value);
        onChoice(kind);
      });
    }
    byId('speaker').addEventListener('change', () => {
      memory.write('speaker', byId('speaker').value);
      this.useSpeaker();
    });
    devices.addEventListener('list', () => this.fill());
    tongue.addEventListener('change', () => this.fill());
    this.fill();
  }

  fill() {
    const { devices } = this;
    fillSelect(byId('mic'), devices.choices('audioinput'), devices.chosen('microphone'));
    fillSelect(byId('camera'), devices.choices('videoinput'), devices.chosen('camera'));
    const speakers = devices.choices('audiooutput').filter((device) => device.deviceId);
    byId('speaker-field').hidden = !('setSinkId' in this.audio) || speakers.length === 0;
    fillSelect(byId('speaker'), speakers, memory.read('speaker'));
  }

  /** Browsers without `setSinkId` play on the system's loudspeaker. */
  useSpeaker() {
    const audio = /** @type {any} */ (this.audio);
    const id = memory.read('speaker');
    if (!audio.setSinkId || (audio.sinkId ?? '') === id) return;
    audio.setSinkId(id).catch(() => {
      // Unplugged since: the system's loudspeaker goes on.
      memory.write('speaker', '');
      this.fill();
    });
  }
}

/**
 * @param {HTMLSelectElement} select
 * @param {MediaDeviceInfo[]} choices
 * @param {string} chosen
 */
function fillSelect(select, choices, chosen) {
  // Before permission browsers give neither names nor ids.
  const named = choices.filter((device) => device.deviceId);
  const options = named.map((device, index) =>
    make('option', { value: device.deviceId, text: device.label || `${t(NOUNS[device.kind])} ${index + 1}` }));
  if (!named.some((device) => device.deviceId === 'default')) {
    options.unshift(make('option', { value: '', text: t(choices.length ? 'device.default' : 'device.none') }));
  }
  select.replaceChildren(...options);
  select.disabled = choices.length === 0;
  select.value = named.some((device) => device.deviceId === chosen) ? chosen : options[0].value;
}
