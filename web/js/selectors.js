/** The microphone, camera and loudspeaker selectors. */

import { byId, make, memory } from './dom.js';

/** @typedef {import('./devices.js').Devices} Devices */

const NOUNS = { audioinput: 'Microphone', videoinput: 'Camera', audiooutput: 'Loudspeaker' };

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
  const noun = choices.length ? NOUNS[choices[0].kind].toLowerCase() : '';
  // Before permission browsers give neither names nor ids.
  const named = choices.filter((device) => device.deviceId);
  const options = named.map((device, index) =>
    make('option', { value: device.deviceId, text: device.label || `${NOUNS[device.kind]} ${index + 1}` }));
  if (!named.some((device) => device.deviceId === 'default')) {
    options.unshift(make('option', { value: '', text: choices.length ? `Default ${noun}` : 'None found' }));
  }
  select.replaceChildren(...options);
  select.disabled = choices.length === 0;
  select.value = named.some((device) => device.deviceId === chosen) ? chosen : options[0].value;
}
