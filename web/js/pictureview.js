/** The picture that is sent: on the stage or small in its corner, mirrored, on the whole screen, with words over it. */

import { byId, setText } from './dom.js';
import { t } from './i18n.js';
import { memory } from './memory.js';

const ICONS = '/static/icons.svg';
const MAX_CHARS = 160;
/** Words stay to be read for this long after they were heard. */
const STAY_MS = 6000;

/** @typedef {import('../lib/captions.js').Caption} Caption */

export class PictureView {
  #isSmall = memory.read('picture') === 'small';
  #isMirrored = memory.read('mirror');
  /** @type {MediaStreamTrack|null} */ #track = null;

  /** @param {() => void} onFlip */
  constructor(onFlip) {
    byId('flip').addEventListener('click', onFlip);
    byId('swap').addEventListener('click', () => {
      this.#isSmall = !this.#isSmall;
      memory.write('picture', this.#isSmall ? 'small' : 'large');
      this.#place();
    });
    byId('mirror').addEventListener('click', () => {
      this.#isMirrored = this.#mirrors() ? 'off' : 'on';
      memory.write('mirror', this.#isMirrored);
      this.#place();
    });
    byId('fullscreen').addEventListener('click', () => this.#toggleFullscreen());
    document.addEventListener('fullscreenchange', () => this.#dressFullscreen());
    byId('torch').addEventListener('click', () => this.#toggleTorch());
    byId('zoom').addEventListener('input', () => this.#constrain({ zoom: Number(byId('zoom').value) }));
    byId('self').addEventListener('dblclick', () => this.#toggleFullscreen());
  }

  /** Whether the whole screen was taken; then Escape gives it back. */
  get isFullscreen() {
    return Boolean(document.fullscreenElement) || 'theatre' in document.body.dataset;
  }

  leaveFullscreen() {
    if (this.isFullscreen) this.#toggleFullscreen();
  }

  /** @param {MediaStreamTrack|null} track that is sent @param {boolean} canFlip */
  show(track, canFlip) {
    byId('flip').hidden = !canFlip;
    if (track === this.#track) return;
    this.#track = track;
    const self = byId('self');
    self.srcObject = track ? new MediaStream([track]) : null;
    if (track) self.play().catch(() => {});
    this.#showAbilities();
    this.#place();
  }

  /** Whether it is a camera's and no screen's or film's. */
  get #isCamera() {
    return this.#track !== null && !('displaySurface' in this.#track.getSettings()) && !('canvas' in this.#track);
  }

  /** People expect a mirror, except of what a camera shows that looks away from them. */
  #mirrors() {
    if (!this.#track || !this.#isCamera) return false;
    if (this.#isMirrored) return this.#isMirrored === 'on';
    return this.#track.getSettings().facingMode !== 'environment';
  }

  #place() {
    const has = Boolean(this.#track);
    byId('self').hidden = !has;
    byId('self').dataset.mirror = String(this.#mirrors());
    byId('stage').dataset.picture = has ? (this.#isSmall ? 'small' : 'large') : 'none';
    byId('swap').hidden = !has;
    byId('mirror').hidden = !this.#isCamera;
    byId('swap').setAttribute('aria-pressed', String(this.#isSmall));
    byId('mirror').setAttribute('aria-pressed', String(this.#mirrors()));
  }

  /** What only some cameras have. */
  #showAbilities() {
    /** @type {any} */ const can = this.#track?.getCapabilities?.() ?? {};
    byId('torch').hidden = !can.torch;
    byId('torch').setAttribute('aria-pressed', 'false');
    const zooms = can.zoom?.max > can.zoom?.min;
    byId('zoom-field').hidden = !zooms;
    if (!zooms) return;
    const { zoom = can.zoom.min } = /** @type {any} */ (this.#track?.getSettings());
    Object.assign(byId('zoom'), { min: can.zoom.min, max: can.zoom.max, step: can.zoom.step || 0.1, value: zoom });
  }

  #toggleTorch() {
    const isOn = byId('torch').getAttribute('aria-pressed') !== 'true';
    byId('torch').setAttribute('aria-pressed', String(isOn));
    this.#constrain({ torch: isOn });
  }

  /** @param {any} setting that the types of the DOM do not know */
  #constrain(setting) {
    this.#track?.applyConstraints({ advanced: [setting] }).catch(() => {
      // The camera was taken away, or cannot do it just now.
    });
  }

  async #toggleFullscreen() {
    const theatre = byId('theatre');
    if (document.fullscreenElement) {
      await document.exitFullscreen();
    } else if ('theatre' in document.body.dataset) {
      delete document.body.dataset.theatre;
    } else if (theatre.requestFullscreen) {
      // A browser may have the method and refuse it; the page can still give the picture all its room.
      await theatre.requestFullscreen().catch(() => { document.body.dataset.theatre = ''; });
    } else {
      document.body.dataset.theatre = '';
    }
    this.#dressFullscreen();
  }

  #dressFullscreen() {
    const button = byId('fullscreen');
    button.setAttribute('aria-pressed', String(this.isFullscreen));
    button.title = t(this.isFullscreen ? 'stage.window' : 'stage.fullscreen');
    button.querySelector('use').setAttribute('href', `${ICONS}#${this.isFullscreen ? 'shrink' : 'grow'}`);
  }
}

/** @param {string} text @returns {string} its end, from the beginning of a sentence or word where there is one */
export function tailOf(text) {
  if (text.length <= MAX_CHARS) return text;
  const tail = text.slice(-MAX_CHARS);
  const begin = tail.search(/(?<=[.!?]\s|[。！？])\S/);
  if (begin > 0 && begin < MAX_CHARS / 2) return tail.slice(begin);
  const space = tail.indexOf(' ');
  return `…${space >= 0 && space < MAX_CHARS / 4 ? tail.slice(space + 1) : tail}`;
}

/** The last words of the conversation, for who looks at the picture. Screen readers hear the captions. */
export class Subtitles {
  #timer = 0;

  /** @param {import('../lib/captions.js').Captions} captions */
  constructor(captions) {
    const size = byId('subtitles-size');
    size.value = memory.read('subtitles') || 'normal';
    size.addEventListener('change', () => {
      memory.write('subtitles', size.value);
      this.#dress();
    });
    this.#dress();
    for (const type of ['added', 'changed']) {
      captions.addEventListener(type, (event) => this.#show(/** @type {CustomEvent} */ (event).detail.row));
    }
    captions.addEventListener('removed', () => this.#hide());
  }

  #dress() {
    byId('subtitles').dataset.size = byId('subtitles-size').value;
  }

  /** @param {Caption} row */
  #show(row) {
    if (row.role === 'note' || !row.text || row.typed || row.status === 'unwritten') return;
    const line = byId('subtitles');
    line.dataset.role = row.role;
    line.hidden = false;
    setText(line, tailOf(row.text));
    clearTimeout(this.#timer);
    if (row.status !== 'growing') this.#timer = window.setTimeout(() => this.#hide(), STAY_MS);
  }

  #hide() {
    byId('subtitles').hidden = true;
  }
}
