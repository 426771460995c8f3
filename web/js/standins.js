/** What stands in for microphone and camera in a call: a file that is played, a screen or window that is shown. */

import { wakeAudio } from './meters.js';

/** Somebody speaks, or is about to. */
const AWAITED = ['hearing', 'thinking', 'speaking'];

/**
 * @param {import('./phase.js').Phase} phase
 * @param {readonly Pick<import('../lib/captions.js').Caption, 'role'|'status'>[]} rows
 * @returns {boolean} whether something is said, or will be: also where a slow server has yet to make out what it heard
 */
export function isAnswerAwaited(phase, rows) {
  return AWAITED.includes(phase) || rows.some(({ role, status }) => role === 'user' && status === 'growing');
}

export class StandIns {
  /** @type {import('./filesource.js').FileSource|null} */ file = null;
  /** @type {MediaStreamTrack|null} */ screen = null;
  #conversation;

  /** @param {import('./conversation.js').Conversation} conversation */
  constructor(conversation) {
    this.#conversation = conversation;
  }

  /** @returns {MediaStreamTrack|null} in the camera's place */
  get picture() {
    return this.file?.video ?? this.screen;
  }

  /** @returns {MediaStreamTrack|null} in the microphone's place */
  get sound() {
    return this.file?.audio ?? null;
  }

  /** Whether a call that begins now is to hear the microphone, too. */
  get wantsMicrophone() {
    return !this.file || this.file.isMixed;
  }

  /**
   * Lets a file be heard and seen instead of the user; places a call that ends with it if there is none.
   * @param {File} file @param {Omit<import('./filesource.js').How, 'isAwaited'>} how
   * @returns {Promise<void>} raises `FileTrouble`
   */
  async play(file, how) {
    const conversation = this.#conversation;
    this.stop();
    wakeAudio();
    const { FileSource } = await import('./filesource.js');
    const source = await FileSource.open(file, { ...how, isAwaited: () => isAnswerAwaited(conversation.phase, conversation.captions.list()) });
    this.file = source;
    const isOwnCall = !conversation.isInCall;
    source.addEventListener('change', () => {
      if (conversation.isTurnBased) this.#push(source.stage);
      conversation.changed();
    });
    source.addEventListener('over', () => {
      if (isOwnCall) conversation.hangUp();
      else this.stop();
    });
    if (!isOwnCall) {
      // Who began in writing has no line for sound that is heard.
      if (conversation.mode.now === 'chat') await conversation.speak();
      await this.begin();
      return;
    }
    if (conversation.mode.chosen === 'chat') conversation.mode.choose(conversation.mode.supported[0]);
    await conversation.place({ listenOnly: false });
    if (!conversation.call) this.stop();
  }

  /** The session is there: the file is played from its beginning. */
  async begin() {
    const { file } = this;
    if (file?.stage !== 'ready') return;
    const { call, devices } = this.#conversation;
    this.#conversation.hear(file.audio);
    await call?.useMicrophone(file.audio);
    if (file.video) await call?.useCamera(file.video);
    await file.start(devices.microphone);
  }

  /** Where turns are taken by hand, the file is one. @param {import('./filesource.js').Stage} stage */
  #push(stage) {
    if (stage === 'playing') this.#conversation.hold();
    else this.#conversation.release();
  }

  /** Ends the file; the user is heard and seen again. */
  stop() {
    const { file } = this;
    if (!file) return;
    this.file = null;
    file.close();
    const conversation = this.#conversation;
    conversation.hear(conversation.devices.microphone);
    conversation.call?.useMicrophone(conversation.devices.microphone).catch(() => {});
    this.#showPicture();
  }

  /** Shows a screen or window instead of the camera, or the camera again. */
  async toggleScreen() {
    if (this.screen) {
      this.#endScreen();
      return;
    }
    // Nothing is chosen, or it is not allowed: the browser has said so.
    const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: 5 } }).catch(() => null);
    const [track] = stream?.getVideoTracks() ?? [];
    if (!track) return;
    this.screen = track;
    track.contentHint = 'detail';
    track.addEventListener('ended', () => this.screen === track && this.#endScreen());
    this.#showPicture();
  }

  /** The call is over. */
  end() {
    this.stop();
    if (this.screen) this.#endScreen();
  }

  #endScreen() {
    this.screen?.stop();
    this.screen = null;
    this.#showPicture();
  }

  #showPicture() {
    this.#conversation.changed();
    this.#conversation.call?.useCamera(this.#conversation.picture).catch(() => {});
  }
}
