/** Voices: choosing one, listening to it, recording or uploading an own one, renaming and deleting it. */

import { DeviceTrouble, capture } from '../lib/devices.js';
import { Refusal } from '../lib/server.js';
import { byId, make, setText } from './dom.js';
import { languageNow, numberText, t, tOr, tongue } from './i18n.js';
import { server } from './access.js';
import { soundButton } from './soundbutton.js';

const TICK_MS = 200;
/** An engine prepares voices when it has time. */
const LOOK_AGAIN_MS = 3000;

/** @typedef {{id: string, name: string, source: string, is_default: boolean, language: string, is_mine: boolean, state: string, sound: string|null, seconds: number|null}} Voice */

export class VoiceView {
  /** @type {Voice[]} */ #voices = [];
  /** @type {any} */ #rules = null;
  /** @type {{recorder: MediaRecorder, track: MediaStreamTrack, began_ms: number, timer: number}|null} */ #recording = null;
  #listened = '';
  #timer = 0;
  #wishes;

  /** @param {import('./wishes.js').Wishes} wishes */
  constructor(wishes) {
    this.#wishes = wishes;
    byId('voice').addEventListener('change', () => wishes.change({ voice: byId('voice').value || undefined }));
    byId('prompt-voice').addEventListener('change', () => wishes.change({ prompt_voice: byId('prompt-voice').value || undefined }));
    byId('voice-record').addEventListener('click', () => this.#toggleRecording());
    byId('voice-upload').addEventListener('click', () => byId('voice-file').click());
    byId('voice-file').addEventListener('change', () => {
      const [file] = byId('voice-file').files;
      byId('voice-file').value = '';
      if (file) this.#add(file, file.name.replace(/\.\w+$/, ''));
    });
    byId('voice-rename-button').addEventListener('click', () => this.#rename());
    byId('voice-delete').addEventListener('click', () => this.#delete());
    wishes.addEventListener('change', () => this.show());
    tongue.addEventListener('change', () => this.#build());
  }

  /** @returns {string} the language of the voice that is chosen, '' if it is not known */
  get language() {
    return this.#chosen?.language ?? '';
  }

  get #chosen() {
    const { voice } = this.#wishes.now;
    return this.#voices.find((one) => one.id === voice);
  }

  /** Asks the server which voices there are. @param {readonly string[]} brought by the engine, where the server does not list them */
  async refresh(brought = []) {
    clearTimeout(this.#timer);
    try {
      const { voices, upload } = await server.voices();
      this.#voices = voices;
      this.#rules = upload;
    } catch {
      this.#voices = brought.map((id, place) => ({ id, name: id, source: 'engine', is_default: place === 0, language: '', is_mine: false, state: 'ready', sound: null, seconds: null }));
      this.#rules = null;
    }
    if (this.#voices.some((one) => one.state === 'waiting')) this.#timer = window.setTimeout(() => this.refresh(brought), LOOK_AGAIN_MS);
    this.#build();
  }

  /** Why a voice cannot be uploaded, or would be of no use; '' if it can. */
  get #cannot() {
    const { code = '', reason = '' } = this.#rules ?? {};
    return reason && tOr(`voice.cannot.${code}`, reason);
  }

  #build() {
    const { voice, prompt_voice } = this.#wishes.now;
    byId('voice').replaceChildren(make('option', { value: '', text: t('voice.default') }), ...this.#voices.map(option));
    byId('prompt-voice').replaceChildren(make('option', { value: '', text: t('voice.same') }), ...this.#voices.map(option));
    // A voice that is gone is no choice any more.
    if (this.#voices.length && voice && !this.#chosen) this.#wishes.change({ voice: undefined });
    if (this.#voices.length && prompt_voice && !this.#voices.some((one) => one.id === prompt_voice)) this.#wishes.change({ prompt_voice: undefined });
    byId('voices').hidden = !this.#voices.length && !this.#rules?.allowed;
    // A recording that no engine could use is not asked for.
    const isAllowed = Boolean(this.#rules?.allowed) && !this.#rules.code;
    byId('voice-add').hidden = !this.#rules;
    for (const id of ['voice-record', 'voice-upload', 'voice-name']) byId(id).hidden = !isAllowed;
    const bounds = this.#rules && { least: numberText(this.#rules.min_seconds), most: numberText(this.#rules.max_seconds) };
    setText(byId('voice-rules'), bounds ? [isAllowed ? t('voice.rules', bounds) : '', this.#cannot].filter(Boolean).join(' ') : '');
    this.show();
  }

  /** @param {boolean} hasPromptVoice the engine can hear another voice in its prompt than it speaks with */
  fit(hasPromptVoice) {
    byId('prompt-voice-field').hidden = !hasPromptVoice || this.#voices.length < 2;
  }

  show() {
    const { voice = '', prompt_voice = '' } = this.#wishes.now;
    byId('voice').value = voice;
    byId('prompt-voice').value = prompt_voice;
    const chosen = this.#chosen;
    byId('voice-own').hidden = !chosen?.is_mine;
    if (document.activeElement !== byId('voice-rename')) byId('voice-rename').value = chosen?.name ?? '';
    this.#offerSound(chosen);
  }

  /** @param {Voice|undefined} voice */
  async #offerSound(voice) {
    const id = voice?.sound ? voice.id : '';
    if (id === this.#listened) return;
    this.#listened = id;
    byId('voice-listen').replaceChildren();
    if (!voice?.sound) return;
    const blob = await server.file(voice.sound).catch(() => null);
    if (!blob || this.#listened !== id) return;
    byId('voice-listen').replaceChildren(soundButton(blob, { label: 'voice.listen', length_s: voice.seconds ?? undefined }));
  }

  async #toggleRecording() {
    if (this.#recording) {
      this.#recording.recorder.stop();
      return;
    }
    this.#say('');
    try {
      const track = await capture('microphone');
      this.#record(track);
    } catch (error) {
      this.#say(error instanceof DeviceTrouble ? t(`trouble.microphone.${error.kind}`) : t('trouble.microphone.failed'));
    }
  }

  /** @param {MediaStreamTrack} track */
  #record(track) {
    /** @type {Blob[]} */ const pieces = [];
    const recorder = new MediaRecorder(new MediaStream([track]));
    const recording = { recorder, track, began_ms: performance.now(), timer: 0 };
    recorder.addEventListener('dataavailable', ({ data }) => pieces.push(data));
    recorder.addEventListener('stop', () => {
      clearInterval(recording.timer);
      track.stop();
      this.#recording = null;
      this.#dressRecording();
      this.#add(new Blob(pieces, { type: recorder.mimeType }), t('voice.mine'));
    });
    recording.timer = window.setInterval(() => this.#dressRecording(), TICK_MS);
    this.#recording = recording;
    recorder.start();
    this.#dressRecording();
  }

  #dressRecording() {
    const button = byId('voice-record');
    const recording = this.#recording;
    button.setAttribute('aria-pressed', String(Boolean(recording)));
    if (!recording) {
      setText(button, t('voice.record'));
      return;
    }
    const passed_s = (performance.now() - recording.began_ms) / 1000;
    setText(button, t('voice.stop', { seconds: numberText(passed_s) }));
    if (passed_s >= (this.#rules?.max_seconds ?? 20) - 0.5) recording.recorder.stop();
  }

  /** @param {Blob} file @param {string} otherwise a name, if none was given */
  async #add(file, otherwise) {
    this.#say(t('voice.sending'));
    await this.#try(async () => {
      const name = byId('voice-name').value.trim() || otherwise;
      const voice = await server.addVoice(file, { name, language: languageNow() });
      byId('voice-name').value = '';
      await this.refresh();
      this.#wishes.change({ voice: voice.id });
      this.#say(t('voice.added', { name: voice.name }));
    });
  }

  async #rename() {
    const voice = this.#chosen;
    const name = byId('voice-rename').value.trim();
    if (!voice || !name) return;
    await this.#try(async () => {
      await server.changeVoice(voice.id, { name });
      await this.refresh();
      this.#say(t('voice.renamed', { name }));
    });
  }

  async #delete() {
    const voice = this.#chosen;
    if (!voice || !window.confirm(t('voice.delete_sure', { name: voice.name }))) return;
    await this.#try(async () => {
      await server.deleteVoice(voice.id);
      this.#wishes.change({ voice: undefined });
      await this.refresh();
      this.#say(t('voice.deleted', { name: voice.name }));
    });
  }

  /** @param {() => Promise<void>} act */
  async #try(act) {
    try {
      await act();
    } catch (error) {
      const { code, message } = error instanceof Refusal ? error : new Refusal('fault', '');
      this.#say(tOr(`voice.error.${code}`, message || t('away.title')));
    }
  }

  /** @param {string} words */
  #say(words) {
    setText(byId('voice-said'), words);
  }
}

/** @param {Voice} voice */
function option({ id, name, state, is_default }) {
  const about = state === 'ready' ? (is_default ? t('voice.is_default') : '') : t(`voice.state.${state}`);
  return make('option', { value: id, text: about ? `${name} (${about})` : name, disabled: state === 'failed' || state === 'unsupported' });
}
