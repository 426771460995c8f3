/**
 * The sounds of a call, kept in this browser: taps microphone and answer, and gives each message what belongs to it.
 *
 * Events: `sound` {id, blob}: `id` is a user's item, or a response.
 */

import { audioContext } from './meters.js';
import { wavOf } from './soundtape.js';
import { Utterances } from './utterances.js';

/** Enough for speech, at a third of the size. */
const KEPT_HZ = 16_000;

/** @typedef {import('./utterances.js').Side} Side */

export class Sounds extends EventTarget {
  #utterances = new Utterances();
  /** @type {Record<Side, {source: MediaStreamAudioSourceNode, tap: AudioWorkletNode}|null>} */ #taps = { user: null, assistant: null };
  /** @type {Record<Side, number>} */ #turn = { user: 0, assistant: 0 };
  /** @type {Promise<void>|null} */ #module = null;

  constructor() {
    super();
    this.#utterances.addEventListener('sound', (event) => this.#tell(/** @type {CustomEvent} */ (event).detail));
  }

  /** @param {Side} side @param {MediaStreamTrack|null} track */
  async tap(side, track) {
    const turn = ++this.#turn[side];
    this.#drop(side);
    const context = audioContext();
    // Pages without a secure origin have no worklets, and no microphone either.
    if (!track || !context?.audioWorklet) return;
    this.#module ??= context.audioWorklet.addModule('/static/js/tapprocessor.js');
    const isReady = await this.#module.then(() => true, () => false);
    if (!isReady || turn !== this.#turn[side]) return;
    const source = context.createMediaStreamSource(new MediaStream([track]));
    const tap = new AudioWorkletNode(context, 'tap', { numberOfInputs: 1, numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' });
    tap.port.onmessage = ({ data }) => this.#utterances.push(side, data);
    source.connect(tap);
    this.#taps[side] = { source, tap };
    this.#utterances.begin(side, context.sampleRate);
  }

  /** @param {any} event of the server @param {boolean} isByHand */
  apply(event, isByHand) {
    this.#utterances.apply(event, isByHand);
  }

  /** @param {boolean} isHeld the talk button */
  held(isHeld) {
    this.#utterances.held(isHeld);
  }

  dropped() {
    this.#utterances.dropped();
  }

  end() {
    for (const side of /** @type {Side[]} */ (['user', 'assistant'])) this.tap(side, null);
    this.#utterances.end();
  }

  /** @param {Side} side */
  #drop(side) {
    const old = this.#taps[side];
    this.#taps[side] = null;
    old?.source.disconnect();
    old?.tap.port.close();
  }

  /** @param {{id: string, samples: Int16Array, rate: number}} sound */
  async #tell({ id, samples, rate }) {
    const length = Math.max(1, Math.round((samples.length * KEPT_HZ) / rate));
    const mixer = new OfflineAudioContext(1, length, KEPT_HZ);
    const buffer = mixer.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const source = mixer.createBufferSource();
    source.buffer = buffer;
    source.connect(mixer.destination);
    source.start();
    const rendered = (await mixer.startRendering()).getChannelData(0);
    const kept = Int16Array.from(rendered, (sample) => Math.max(-1, Math.min(1, sample)) * 32767);
    const blob = new Blob([wavOf(kept, KEPT_HZ)], { type: `audio/wav;rate=${KEPT_HZ}` });
    this.dispatchEvent(new CustomEvent('sound', { detail: { id, blob } }));
  }
}
