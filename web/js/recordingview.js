/** A recorded call in a window of its own: who spoke when, both sides' sound in step, their words and the camera. */

import { server } from './access.js';
import { clockText, make, setText } from './dom.js';
import { dateText, t } from './i18n.js';
import { RecordedPlayer } from './recordedplayer.js';
import { soundIn } from './recordedside.js';
import { beginningsOf, lastBy, timed } from './recordedwords.js';

const SIDES = /** @type {const} */ (['user', 'assistant']);
const LEVELS = 480;
const LANE_HEIGHT = 32;
const FLOOR_DB = -55;
const SHOW_EVERY_MS = 100;
const STEP_S = 0.1;
/** As far an arrow key goes. */
const KEY_STEP_S = 5;
/** @type {Record<string, number>} */
const KEYS = { ArrowLeft: -KEY_STEP_S, ArrowDown: -KEY_STEP_S, ArrowRight: KEY_STEP_S, ArrowUp: KEY_STEP_S };

/** @typedef {import('./keptrecordings.js').Recording} Recording */
/** @typedef {import('./recordedside.js').RecordedSide} RecordedSide */
/** @typedef {import('./recordedwords.js').SaidLine} SaidLine */

/** @typedef {import('./recordedwords.js').Timed & {film: Blob|null}} Content the caller's side and the assistant's; `film`: of the pictures */

/** @param {Recording} recording @returns {Promise<Content>} */
async function fetched({ call_id, files }) {
  const names = files.map(({ name }) => name);
  const blob = (/** @type {string} */ name) => server.file(`/api/recordings/${encodeURIComponent(call_id)}/${encodeURIComponent(name)}`);
  const text = async (/** @type {string} */ name) => (names.includes(name) ? (await blob(name)).text() : '');
  const call = JSON.parse(await text('call.json'));
  const began_at = beginningsOf(call);
  const soundOf = async (/** @type {string} */ side, /** @type {number} */ index) => {
    const name = index ? `${side}-${index + 1}.wav` : `${side}.wav`;
    return names.includes(name) ? soundIn(await blob(name)) : null;
  };
  const sounds = await Promise.all(SIDES.map((side) => Promise.all(began_at.map((_, index) => soundOf(side, index)))));
  const kept = { began_at, sounds, words: await text('words.jsonl'), feedback: await text('feedback.jsonl'), seen: await text('pictures.jsonl') };
  return { ...timed(kept), film: names.includes('pictures.mjpeg') ? await blob('pictures.mjpeg') : null };
}

/** @param {Recording} recording @returns {Promise<void>} when it is open; raises `Refusal` */
export async function openRecording(recording) {
  const content = await fetched(recording);
  const view = new RecordingView(recording, content);
  await view.open();
}

class RecordingView {
  #content;
  #player;
  #timer = 0;
  #closed = new AbortController();
  /** @type {Map<SaidLine, HTMLElement>} */ #rows = new Map();
  /** @type {SaidLine|null} */ #current = null;
  /** @type {import('./recordedwords.js').Picture|null} */ #shown = null;

  /** @param {Recording} recording @param {Content} content */
  constructor({ call_id, began_at }, content) {
    this.#content = content;
    const { sides, length_s } = content;
    this.#player = new RecordedPlayer(sides, length_s, new AudioContext());
    const close = make('button', { type: 'button', class: 'tool', 'aria-label': t('panel.close'), text: '×' });
    this.play = make('button', { type: 'button', class: 'primary', 'data-testid': 'viewer-play' });
    this.clock = make('span', { class: 'viewer-clock' });
    this.place = make('input', { type: 'range', class: 'viewer-place', min: 0, max: length_s, step: STEP_S, value: 0, 'aria-label': t('viewer.place') });
    this.sign = make('i', { class: 'viewer-sign' });
    this.lanes = make('div', { class: 'lanes' }, this.sign, this.place);
    this.picture = make('img', { class: 'viewer-picture', alt: t('viewer.picture'), hidden: true });
    this.trouble = make('p', { class: 'viewer-trouble', role: 'alert' });
    this.list = make('ol', { class: 'said', tabindex: 0, 'aria-label': t('talk.title') });
    const sound = make('div', { class: 'viewer-sound', hidden: !length_s }, this.lanes, make('div', { class: 'row' }, this.play, this.clock, this.trouble));
    this.dialog = make('dialog', { class: 'viewer', 'aria-labelledby': 'viewer-title', 'data-testid': 'viewer' },
      make('header', {}, make('h2', { id: 'viewer-title', text: t('viewer.title', { call: call_id }) }), make('p', { class: 'faint', text: dateText(1000 * began_at) }), close),
      sound, make('div', { class: 'viewer-body' }, this.picture, this.list));
    close.addEventListener('click', () => this.dialog.close());
    this.dialog.addEventListener('close', () => this.#close());
    this.play.addEventListener('click', () => (this.#player.isPlaying ? this.#player.pause() : this.#player.play()));
    this.place.addEventListener('input', () => this.#player.seek(this.place.valueAsNumber));
    this.place.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => this.#onKey(event));
    this.#player.addEventListener('change', () => this.#show());
    this.#player.addEventListener('error', () => this.#tellUnreadable());
    this.list.append(...content.lines.map((line) => this.#row(line)));
    if (!content.lines.length) this.list.append(make('li', { class: 'none', text: t('viewer.wordless') }));
  }

  async open() {
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.#show();
    this.#timer = window.setInterval(() => this.#player.isPlaying && this.#show(), SHOW_EVERY_MS);
    try {
      for (const [index, side] of this.#content.sides.entries()) this.sign.before(await this.#lane(SIDES[index], side));
    } catch {
      if (!this.#closed.signal.aborted) this.#tellUnreadable();
    }
  }

  #tellUnreadable() {
    setText(this.trouble, t('viewer.unreadable'));
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const by_s = KEYS[event.key];
    if (!by_s || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#player.seek(this.#player.position_s + by_s);
  }

  #close() {
    clearInterval(this.#timer);
    this.#closed.abort();
    this.#player.close();
    URL.revokeObjectURL(this.picture.src);
    this.dialog.remove();
  }

  /** @param {'user'|'assistant'} name @param {RecordedSide} side when it was heard, as a band */
  async #lane(name, side) {
    const levels = this.#player.length_s ? await side.levels(LEVELS, this.#player.length_s, this.#closed.signal) : [];
    const heights = levels.map((level) => Math.max(0, 1 - (20 * Math.log10(level + 1e-9)) / FLOOR_DB));
    const bars = heights.flatMap((height, at) => {
      const half = (height * LANE_HEIGHT) / 2;
      return half > 0.5 ? [`M${at + 0.5} ${(LANE_HEIGHT / 2 - half).toFixed(1)}v${(2 * half).toFixed(1)}`] : [];
    });
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    svg.setAttribute('viewBox', `0 0 ${LEVELS} ${LANE_HEIGHT}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    path.setAttribute('d', bars.join(''));
    svg.append(path);
    return make('div', { class: 'lane', 'data-role': name }, make('span', { text: t(`viewer.${name}`) }), svg);
  }

  /** @param {SaidLine} line */
  #row(line) {
    const { role, text, at_s, rating, comment } = line;
    const time = clockText(at_s);
    const go = make('button', { type: 'button', class: 'quiet small', text: time, 'aria-label': t('viewer.go', { time }) });
    go.addEventListener('click', () => {
      this.#player.seek(at_s);
      this.#showLine(line);
    });
    const words = make('p', { text });
    const row = make('li', { 'data-role': role }, go, make('span', { class: 'who', text: t(`viewer.${role}`) }), words);
    if (rating) row.append(make('p', { class: 'faint', text: [t(`message.${rating}`), comment].filter(Boolean).join(t('list.comma')) }));
    this.#rows.set(line, row);
    return row;
  }

  #show() {
    const { position_s, length_s, isPlaying } = this.#player;
    setText(this.play, t(isPlaying ? 'viewer.pause' : 'viewer.play'));
    if (isPlaying) setText(this.trouble, '');
    const time = clockText(position_s);
    setText(this.clock, `${time} / ${clockText(length_s)}`);
    this.place.value = String(position_s);
    if (this.place.getAttribute('aria-valuetext') !== time) this.place.setAttribute('aria-valuetext', time);
    this.sign.style.setProperty('--place', length_s ? (position_s / length_s).toFixed(4) : '0');
    this.#showLine(lastBy(this.#content.lines, position_s));
    this.#showPicture(lastBy(this.#content.pictures, position_s));
  }

  /** @param {SaidLine|null} line that began last */
  #showLine(line) {
    if (line === this.#current) return;
    if (this.#current) this.#rows.get(this.#current)?.removeAttribute('aria-current');
    this.#current = line;
    const row = line && this.#rows.get(line);
    if (!row) return;
    row.setAttribute('aria-current', 'true');
    // Within the list alone: the window stays where it is.
    this.list.scrollTop = row.offsetTop - this.list.clientHeight / 3;
  }

  /** @param {import('./recordedwords.js').Picture|null} picture */
  #showPicture(picture) {
    const { film } = this.#content;
    if (picture === this.#shown || !film) return;
    this.#shown = picture;
    URL.revokeObjectURL(this.picture.src);
    this.picture.hidden = !picture;
    if (picture) this.picture.src = URL.createObjectURL(film.slice(picture.start, picture.start + picture.size, 'image/jpeg'));
  }
}
