/** What the user writes and shows in a conversation, and what a preset shows before it. No document here. */

import { AttachmentTrouble, Refusal, partOf } from '../lib/omnicall.js';
import { server } from './access.js';
import { t } from './i18n.js';

/** @typedef {import('./presets.js').PresetMedia} PresetMedia */

/** @param {unknown} error */
function reasonOf(error) {
  if (error instanceof AttachmentTrouble) return t(`attach.${error.code}`, { limit: error.limit });
  return (error instanceof Refusal && error.message) || t('away.title');
}

/** @param {File} file */
function shown(file) {
  return { name: file.name, kind: file.type.split('/')[0], file };
}

export class Writing {
  #conversation;
  /** What a preset shows is on its way into the call. @type {Promise<void>} */ #opening = Promise.resolve();

  /** @param {import('./conversation.js').Conversation} conversation */
  constructor(conversation) {
    this.#conversation = conversation;
  }

  /** A call has been placed: a conversation that begins with it begins with what its preset shows. */
  begin() {
    const { captions, wishes } = this.#conversation;
    const hasBegun = captions.list().some(({ role }) => role !== 'note');
    if (!hasBegun) this.bring(wishes.now.media ?? []);
  }

  /** Shows what a preset brings, without a question. @param {PresetMedia[]} media */
  bring(media) {
    if (media.length) this.#opening = this.#bring(media);
  }

  /** @param {PresetMedia[]} media */
  async #bring(media) {
    const { call, captions } = this.#conversation;
    let { name } = media[0];
    try {
      const files = [];
      const parts = [];
      for (const one of media) {
        ({ name } = one);
        const file = new File([await server.file(one.url)], name, { type: one.content_type });
        files.push(file);
        parts.push(await partOf(file));
      }
      await call?.sendParts(parts, { media: files.map(shown), wantsAnswer: false });
    } catch (error) {
      captions.note(t('attach.not_sent', { name, reason: reasonOf(error) }));
    }
  }

  /** @param {string} text starts a call without microphone if there is none */
  async write(text) {
    const conversation = this.#conversation;
    await conversation.place({ listenOnly: true });
    await this.#opening;
    if (!conversation.call) return;
    conversation.call.write(text);
    conversation.talk.asked(performance.now());
  }

  /**
   * Sends files, and what is written about them.
   * @param {File[]} files @param {string} text @param {(fraction: number) => void} onProgress
   * @returns {Promise<boolean>} whether the server has them; if not, a note says why
   */
  async show(files, text, onProgress) {
    const conversation = this.#conversation;
    onProgress(0);
    let { name } = files[0];
    try {
      const parts = [];
      for (const file of files) {
        ({ name } = file);
        parts.push(await partOf(file));
      }
      await conversation.place({ listenOnly: true });
      await this.#opening;
      const { call } = conversation;
      if (!call) return false;
      await call.sendParts(parts, { text, media: files.map(shown), onProgress });
    } catch (error) {
      conversation.captions.note(t('attach.not_sent', { name, reason: reasonOf(error) }));
      return false;
    }
    conversation.talk.asked(performance.now());
    return true;
  }

  /** Takes a message back with all that came after it. @param {string} id of a caption */
  takeBack(id) {
    const { call, captions } = this.#conversation;
    if (call) call.takeBack(id);
    else captions.cutBackTo(id);
  }

  /** Another answer in place of one. @param {string} id of its caption */
  async answerAnew(id) {
    const conversation = this.#conversation;
    const rows = conversation.captions.list();
    const asked = rows.slice(0, rows.findIndex((row) => row.id === id)).findLast((row) => row.role === 'user');
    if (asked?.typed && asked.text && !asked.media?.length) {
      // Not every engine answers what it has answered already.
      this.takeBack(asked.id);
      await this.write(asked.text);
      return;
    }
    this.takeBack(id);
    await conversation.place({ listenOnly: true });
    conversation.call?.answerAnew('');
    conversation.talk.asked(performance.now());
  }
}
