/** The picture that is sent: on the stage or small in its corner, mirrored, and on the whole screen. */

import { byId } from './dom.js';
import { t } from './i18n.js';
import { memory } from './memory.js';

const ICONS = '/static/icons.svg';

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
    this.#place();
  }

  /** People expect a mirror, except of what a camera shows that looks away from them, or of a screen. */
  #mirrors() {
    if (!this.#track || 'displaySurface' in this.#track.getSettings()) return false;
    if (this.#isMirrored) return this.#isMirrored === 'on';
    return this.#track.getSettings().facingMode !== 'environment';
  }

  #place() {
    const has = Boolean(this.#track);
    byId('self').hidden = !has;
    byId('self').dataset.mirror = String(this.#mirrors());
    byId('stage').dataset.picture = has ? (this.#isSmall ? 'small' : 'large') : 'none';
    byId('swap').hidden = byId('mirror').hidden = !has;
    byId('swap').setAttribute('aria-pressed', String(this.#isSmall));
    byId('mirror').setAttribute('aria-pressed', String(this.#mirrors()));
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
