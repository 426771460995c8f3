/**
 * What both sides said, as a list of captions built from the server's events. No document here.
 *
 * Events: `added` {row}, `changed` {row, appended}, `removed` {row}. `appended` is the new text if the old stayed.
 */

const MAX_ROWS = 200;
const MAX_TEXT = 8000;
const MAX_SILENCED = 300;

/**
 * @typedef {Object} Caption
 * @property {string} id
 * @property {'user'|'assistant'|'note'} role
 * @property {string} text
 * @property {'growing'|'done'|'cut'|'failed'|'unwritten'} status `cut`: the answer was interrupted, `text` is what was heard
 * @property {boolean} typed
 * @property {boolean} [echoed] the server has confirmed this typed message
 * @property {string} [responseId]
 * @property {number} [heard_ms] of a cut answer
 * @property {{name: string, kind: string, file?: Blob}[]} [media] files that went with the words; `file` as it was given
 */

export class Captions extends EventTarget {
  /** @type {Caption[]} */ #rows = [];
  /** Ids of responses whose sound is being played. */
  #playing = new Set();
  /** Ids of answers cut before a word was heard, and of what was taken back: late events must not bring them back. */
  #silenced = /** @type {string[]} */ ([]);
  #notes = 0;

  /** @returns {Caption[]} copies */
  list() {
    return this.#rows.map((row) => ({ ...row }));
  }

  clear() {
    for (const row of this.#rows.splice(0)) this.#emit('removed', { row });
  }

  /**
   * Something written by the user; the server's echo of it finds this row.
   * @param {string} id @param {string} text @param {Caption['media']} [media]
   */
  typed(id, text, media) {
    this.#add({ id, role: 'user', text, status: 'done', typed: true, ...(media?.length ? { media } : {}) });
  }

  /** Shows an earlier conversation, from which a call may go on. @param {readonly Caption[]} rows in place of all others */
  restore(rows) {
    this.clear();
    for (const row of rows.slice(-MAX_ROWS)) this.#add(row.role === 'note' ? { ...row, id: this.#noteId() } : { ...row });
    this.finish();
  }

  /**
   * Takes a message back, and all that came after it.
   * @param {string} id
   * @returns {Caption[]} what is gone, oldest first
   */
  cutBackTo(id) {
    const from = this.#rows.findIndex((row) => row.id === id);
    const gone = from < 0 ? [] : this.#rows.slice(from);
    for (const row of gone) {
      this.#silence(row.id);
      this.#remove(row);
    }
    return gone;
  }

  /** @param {string} text something the page has to say between the lines */
  note(text) {
    this.#add({ id: this.#noteId(), role: 'note', text, status: 'done', typed: false });
  }

  /** No more events will come. */
  finish() {
    for (const row of [...this.#rows]) {
      // All of its words may be known while its sound is still being played.
      const isPlaying = row.status === 'done' && this.#playing.has(row.responseId);
      if (row.status !== 'growing' && !isPlaying) continue;
      if (row.text) this.#close(row, row.role === 'assistant' ? 'cut' : 'done');
      else this.#remove(row);
    }
    this.#playing.clear();
  }

  /** @param {any} event of the server */
  apply(event) {
    switch (event.type) {
      case 'input_audio_buffer.committed':
        this.#row(event.item_id, 'user');
        break;
      case 'conversation.item.added':
      case 'conversation.item.done':
        this.#onItem(event.item);
        break;
      case 'conversation.item.input_audio_transcription.delta':
        this.#append(this.#row(event.item_id, 'user'), event.delta);
        break;
      case 'conversation.item.input_audio_transcription.completed':
        this.#onTranscript(this.#row(event.item_id, 'user'), event.transcript);
        break;
      case 'conversation.item.input_audio_transcription.failed':
        // An engine that hears without writing down has not failed.
        this.#close(
          this.#row(event.item_id, 'user'),
          event.error?.code === 'not_transcribed' ? 'unwritten' : 'failed',
        );
        break;
      case 'response.output_item.added':
        if (event.item?.type === 'message') this.#row(event.item.id, 'assistant', event.response_id);
        break;
      case 'response.output_audio_transcript.delta':
      case 'response.output_text.delta':
        this.#append(this.#row(event.item_id, 'assistant', event.response_id), event.delta);
        break;
      case 'response.output_audio_transcript.done':
      case 'response.output_text.done':
        this.#onTranscript(this.#row(event.item_id, 'assistant', event.response_id), event.transcript ?? event.text);
        break;
      case 'output_audio_buffer.started':
        this.#playing.add(event.response_id);
        break;
      case 'output_audio_buffer.cleared':
        this.#playing.delete(event.response_id);
        this.#cut((row) => row.responseId === event.response_id);
        break;
      case 'conversation.item.truncated':
        this.#cut((row) => row.id === event.item_id, event.audio_end_ms);
        break;
      case 'output_audio_buffer.stopped':
        this.#playing.delete(event.response_id);
        this.#onPlayed(event.response_id);
        break;
      case 'response.done':
        this.#onResponseDone(event.response);
        break;
      case 'session.continued':
        this.#onContinued(Array.isArray(event.items) ? event.items : []);
        break;
      default:
    }
  }

  /**
   * What was said while nothing was heard of the server, as it stands now.
   * @param {any[]} items
   */
  #onContinued(items) {
    const messages = items.filter((item) => item?.type === 'message' && ['user', 'assistant'].includes(item.role));
    const known = messages.map((item) => item.id);
    for (const item of messages) {
      const text = wordsOf(item).trim().slice(0, MAX_TEXT);
      if (item.role === 'user' && text && this.#adoptTyped(item.id, text)) continue;
      const row = this.#row(item.id, item.role);
      if (!row || row.typed) continue;
      const isGrowing = item.status === 'in_progress' || (item.role === 'user' && !text && row.status === 'growing');
      const isCut = item.role === 'assistant' && item.status === 'incomplete';
      row.text = text || row.text;
      this.#close(row, isGrowing ? 'growing' : isCut ? 'cut' : row.text ? 'done' : 'unwritten');
    }
    // What began to be said and came to nothing meanwhile.
    for (const row of this.#rows.filter(({ id, status }) => status === 'growing' && !known.includes(id))) {
      if (row.text) this.#close(row, row.role === 'assistant' ? 'cut' : 'done');
      else this.#remove(row);
    }
  }

  /** @param {any} item */
  #onItem(item) {
    if (item?.type !== 'message' || (item.role !== 'user' && item.role !== 'assistant')) return;
    const text = wordsOf(item);
    if (item.role === 'user' && text && this.#adoptTyped(item.id, text)) return;
    const row = this.#row(item.id, item.role);
    // An assistant's words are shown as they are heard; the item may hold them before that.
    if (item.role === 'user' && text && row?.status === 'growing') this.#onTranscript(row, text);
  }

  /**
   * A server may give a typed message an id of its own.
   * @param {string} id @param {string} text
   */
  #adoptTyped(id, text) {
    const row = this.#find(id) ?? this.#rows.find((one) => one.typed && !one.echoed && one.text === text);
    if (!row?.typed) return false;
    row.id = id;
    row.echoed = true;
    return true;
  }

  /** @param {Caption|null} row @param {unknown} transcript */
  #onTranscript(row, transcript) {
    if (!row || row.status !== 'growing' || typeof transcript !== 'string') return;
    const text = transcript.trim().slice(0, MAX_TEXT);
    if (!text && row.role === 'user') {
      this.#remove(row);
      return;
    }
    const appended = text.startsWith(row.text) ? text.slice(row.text.length) : undefined;
    row.text = text || row.text;
    row.status = 'done';
    this.#emit('changed', { row, appended });
  }

  /** @param {any} response */
  #onResponseDone(response) {
    const isMeant = (/** @type {Caption} */ row) => row.responseId === response?.id;
    if (response?.status === 'cancelled') this.#cut(isMeant);
    for (const row of this.#answers(isMeant)) {
      if (!row.text) this.#remove(row);
      else if (response?.status === 'failed') this.#close(row, 'failed');
    }
  }

  /** @param {string} responseId all of its sound was played */
  #onPlayed(responseId) {
    for (const row of this.#answers((one) => one.responseId === responseId && one.status === 'growing')) {
      if (row.text) this.#close(row, 'done');
    }
  }

  /** @param {(row: Caption) => boolean} isMeant */
  #answers(isMeant) {
    return this.#rows.filter((row) => row.role === 'assistant' && isMeant(row));
  }

  /** @param {(row: Caption) => boolean} isMeant @param {number} [heard_ms] */
  #cut(isMeant, heard_ms) {
    for (const row of this.#answers(isMeant)) {
      if (Number.isFinite(heard_ms)) row.heard_ms = heard_ms;
      if (row.text) {
        this.#close(row, 'cut');
      } else {
        this.#silence(row.id);
        this.#remove(row);
      }
    }
  }

  /** @param {string} id that late events must not bring back */
  #silence(id) {
    this.#silenced.push(id);
    if (this.#silenced.length > MAX_SILENCED) this.#silenced.shift();
  }

  #noteId() {
    this.#notes += 1;
    return `note-${this.#notes}`;
  }

  /** @param {Caption|null} row @param {unknown} delta */
  #append(row, delta) {
    // Words that arrive after a cut were never heard.
    if (!row || row.status !== 'growing' || typeof delta !== 'string' || !delta) return;
    const appended = (row.text ? delta : delta.trimStart()).slice(0, MAX_TEXT - row.text.length);
    row.text += appended;
    this.#emit('changed', { row, appended });
  }

  /** @param {Caption|null} row @param {Caption['status']} status */
  #close(row, status) {
    if (!row) return;
    row.status = status;
    this.#emit('changed', { row, appended: '' });
  }

  /**
   * The row of an item, made if it is new; null where there must be none.
   * @param {unknown} id
   * @param {'user'|'assistant'} role
   * @param {string} [responseId]
   * @returns {Caption|null}
   */
  #row(id, role, responseId) {
    if (typeof id !== 'string' || !id || this.#silenced.includes(id)) return null;
    const row = this.#find(id) ?? this.#add({ id, role, text: '', status: 'growing', typed: false });
    if (responseId && !row.responseId) row.responseId = responseId;
    return row;
  }

  /** @param {string} id */
  #find(id) {
    return this.#rows.find((row) => row.id === id);
  }

  /** @param {Caption} row */
  #add(row) {
    this.#rows.push(row);
    this.#emit('added', { row });
    if (this.#rows.length > MAX_ROWS) this.#remove(this.#rows[0]);
    return row;
  }

  /** @param {Caption} row */
  #remove(row) {
    this.#rows = this.#rows.filter((one) => one !== row);
    this.#emit('removed', { row });
  }

  /** @param {string} type @param {any} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {any} item @returns {string} */
function wordsOf(item) {
  const parts = Array.isArray(item.content) ? item.content : [];
  return parts.map((/** @type {any} */ part) => part?.text ?? part?.transcript ?? '').join('');
}
