/**
 * A video or sound file as the source of a call: its sound as a microphone, its picture as a camera.
 *
 * Events: `change` (where it stands), `over` (all of it and the padding was played).
 */

const TICK_MS = 100;
/** As the camera (see lib/devices.js): more than the encoder sends. */
const PICTURES_PER_S = 5;
const MAX_SIDE = 1280;
/** For so long an answer may put off the end: one that never ends must not keep the call. */
const MAX_AWAITED_S = 120;

/** @typedef {'ready'|'lead'|'playing'|'padding'|'over'} Stage */

/**
 * @typedef {Object} How
 * @property {number} lead_s of silence before the file
 * @property {number} padding_s of silence after it, in which the answer comes
 * @property {boolean} isMixed the microphone is heard with it
 * @property {() => boolean} isAwaited an answer is: the silence after the file is counted from its end
 */

/**
 * @param {Stage} stage
 * @param {number} in_it_s how long it has been there
 * @param {{lead_s: number, padding_s: number}} silence before and after the file
 * @param {boolean} isPlayed the file has come to its end
 * @returns {Stage} the next one
 */
export function nextStage(stage, in_it_s, { lead_s, padding_s }, isPlayed) {
  if (stage === 'lead' && in_it_s >= lead_s) return 'playing';
  if (stage === 'playing' && isPlayed) return 'padding';
  if (stage === 'padding' && in_it_s >= padding_s) return 'over';
  return stage;
}

/** @param {number} width @param {number} height @returns {[number, number]} even, and no side longer than needed */
export function sizeOf(width, height) {
  const scale = Math.min(1, MAX_SIDE / Math.max(1, width, height));
  const even = (/** @type {number} */ side) => Math.max(2, 2 * Math.round((side * scale) / 2));
  return [even(width), even(height)];
}

/** The file cannot be played here. */
export class FileTrouble extends Error {}

/** Owns an element that plays the file, the sound graph and the tracks; `close` ends them all. */
export class FileSource extends EventTarget {
  /** @type {Stage} */ stage = 'ready';
  #element;
  #context;
  #mixer;
  #gain;
  /** @type {HTMLCanvasElement|null} */ #canvas = null;
  /** @type {MediaStreamAudioSourceNode|null} */ #microphone = null;
  #url;
  #timer = 0;
  #since_ms = 0;
  #played_ms = 0;
  #how;
  /** @type {MediaStreamTrack} what the call sends */ audio;
  /** @type {MediaStreamTrack|null} null: there is no picture in the file */ video = null;

  /** @param {File} file @param {How} how @returns {Promise<FileSource>} raises `FileTrouble` */
  static async open(file, how) {
    const source = new FileSource(file, how);
    try {
      await source.#load();
    } catch (error) {
      source.close();
      throw error;
    }
    return source;
  }

  /** @param {File} file of which `open` has yet to see what it is @param {How} how */
  constructor(file, how) {
    super();
    this.#how = how;
    this.name = file.name;
    this.#url = URL.createObjectURL(file);
    this.#element = document.createElement('video');
    this.#element.playsInline = true;
    this.#element.preload = 'auto';
    this.#context = new AudioContext();
    this.#mixer = this.#context.createMediaStreamDestination();
    this.#mixer.channelCount = 1;
    this.#gain = this.#context.createGain();
    const sound = this.#context.createMediaElementSource(this.#element);
    sound.connect(this.#gain).connect(this.#mixer);
    // The user hears the file, too.
    this.#gain.connect(this.#context.destination);
    [this.audio] = this.#mixer.stream.getAudioTracks();
  }

  /** @returns {number} how much of the file has been played, 0 to 1 */
  get fraction() {
    const { currentTime, duration } = this.#element;
    return Number.isFinite(duration) && duration > 0 ? currentTime / duration : 0;
  }

  get length_s() {
    return Number.isFinite(this.#element.duration) ? this.#element.duration : 0;
  }

  /** @returns {Promise<void>} */
  #load() {
    return new Promise((resolve, reject) => {
      this.#element.addEventListener('loadeddata', () => {
        const { videoWidth, videoHeight } = this.#element;
        if (videoWidth && videoHeight) this.#show(videoWidth, videoHeight);
        resolve();
      }, { once: true });
      this.#element.addEventListener('error', () => reject(new FileTrouble(this.#element.error?.message ?? '')), { once: true });
      this.#element.src = this.#url;
    });
  }

  /** Through a canvas, which every browser can capture. @param {number} width @param {number} height */
  #show(width, height) {
    this.#canvas = document.createElement('canvas');
    [this.#canvas.width, this.#canvas.height] = sizeOf(width, height);
    this.#draw();
    [this.video] = this.#canvas.captureStream(PICTURES_PER_S).getVideoTracks();
    this.video.contentHint = 'detail';
  }

  #draw() {
    const { width, height } = this.#canvas ?? {};
    if (width && height) this.#canvas?.getContext('2d')?.drawImage(this.#element, 0, 0, width, height);
  }

  get isMixed() {
    return this.#how.isMixed;
  }

  /** @param {MediaStreamTrack|null} microphone stays with its owner */
  async start(microphone) {
    if (this.stage !== 'ready') return;
    this.#become('lead');
    this.#timer = window.setInterval(() => this.#tick(), TICK_MS);
    await this.#context.resume();
    if (microphone && this.isMixed) {
      this.#microphone = this.#context.createMediaStreamSource(new MediaStream([microphone]));
      this.#microphone.connect(this.#mixer);
    }
  }

  #tick() {
    this.#draw();
    const isPutOff = performance.now() - this.#played_ms < MAX_AWAITED_S * 1000;
    if (this.stage === 'padding' && isPutOff && this.#how.isAwaited()) this.#since_ms = performance.now();
    const next = nextStage(this.stage, (performance.now() - this.#since_ms) / 1000, this.#how, this.#element.ended || Boolean(this.#element.error));
    if (next !== this.stage) this.#become(next);
    else if (this.stage === 'playing') this.dispatchEvent(new Event('change'));
  }

  /** @param {Stage} stage */
  #become(stage) {
    this.stage = stage;
    this.#since_ms = performance.now();
    if (stage === 'padding') this.#played_ms = this.#since_ms;
    if (stage === 'playing') {
      this.#element.play().catch(() => this.stage === 'playing' && this.#become('padding'));
    }
    this.dispatchEvent(new Event('change'));
    if (stage === 'over') {
      clearInterval(this.#timer);
      this.dispatchEvent(new Event('over'));
    }
  }

  close() {
    clearInterval(this.#timer);
    this.#element.pause();
    this.#element.removeAttribute('src');
    this.#microphone?.disconnect();
    this.audio.stop();
    this.video?.stop();
    URL.revokeObjectURL(this.#url);
    this.#context.close().catch(() => {});
  }
}
