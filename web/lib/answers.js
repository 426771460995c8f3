/** Where the answer stands that is to be interrupted. */

export class Answers {
  #isMade = false;
  #isPlayed = false;
  /** One was asked for and has not begun. */
  isAwaited = false;
  #isUnwanted = false;

  /** Whether there is anything to interrupt. */
  get isAny() {
    return this.isAwaited || this.#isMade || this.#isPlayed;
  }

  wanted() {
    this.isAwaited = true;
    this.#isUnwanted = false;
  }

  /**
   * The user does not want to hear the answer.
   * @param {boolean} isAskedFor nothing is answered unasked: only then can the next answer be known to be this one
   */
  stopped(isAskedFor) {
    this.#isUnwanted = isAskedFor && this.isAwaited;
  }

  /** @param {any} event of the server @returns {boolean} whether an answer begins that was stopped before it began */
  apply(event) {
    switch (event.type) {
      case 'response.created': {
        const isUnwanted = this.#isUnwanted;
        this.isAwaited = this.#isUnwanted = false;
        this.#isMade = true;
        return isUnwanted;
      }
      case 'response.done':
        this.#isMade = false;
        break;
      case 'output_audio_buffer.started':
        this.#isPlayed = true;
        break;
      case 'output_audio_buffer.stopped':
      case 'output_audio_buffer.cleared':
        this.#isPlayed = false;
        break;
      default:
    }
    return false;
  }
}
