/**
 * Push to talk: what is said while it is held is one turn of the user. No document here.
 *
 * Events: `begun`, then `said` {released_ms} or `dropped` (held too briefly to have said a thing), and `change`.
 */

const LEAST_HELD_MS = 250;
/** What was said before the release is still on its way through the microphone and the encoder. */
const TAIL_MS = 200;

export class PushToTalk extends EventTarget {
  #begun_ms = 0;
  /** @type {ReturnType<typeof setTimeout>|0} */ #tailTimer = 0;
  isHeld = false;
  /** The last press was dropped. */
  wasTooShort = false;

  /** Whether the microphone is to be heard. */
  get isOpen() {
    return this.isHeld || Boolean(this.#tailTimer);
  }

  hold() {
    if (this.isHeld) return;
    this.isHeld = true;
    this.wasTooShort = false;
    // A finger that slipped for a moment does not end the turn.
    if (this.#tailTimer) this.#stopTail();
    else this.#begin();
    this.#emit('change');
  }

  #begin() {
    this.#begun_ms = performance.now();
    this.#emit('begun');
  }

  release() {
    if (!this.isHeld) return;
    this.isHeld = false;
    const released_ms = performance.now();
    if (released_ms - this.#begun_ms < LEAST_HELD_MS) {
      this.wasTooShort = true;
      this.#emit('dropped');
    } else {
      this.#tailTimer = setTimeout(() => {
        this.#tailTimer = 0;
        this.#emit('said', { released_ms });
        this.#emit('change');
      }, TAIL_MS);
    }
    this.#emit('change');
  }

  /** There is nobody to talk to any more, or no need to push. */
  stop() {
    if (!this.isOpen && !this.wasTooShort) return;
    this.#stopTail();
    this.isHeld = this.wasTooShort = false;
    this.#emit('change');
  }

  #stopTail() {
    clearTimeout(this.#tailTimer || undefined);
    this.#tailTimer = 0;
  }

  /** @param {string} type @param {any} [detail] */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
