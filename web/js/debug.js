/** `window.omnicall`: a read-only view of the page for tests and for the console. */

const MAX_EVENTS = 500;

/** The last 500 events of both directions, and the page's own `omnicall.*` marks. */
export class EventLog {
  /** @type {{t: number, type: string, [field: string]: any}[]} */
  list = [];

  /** @param {any} event @param {Object} [more] */
  add(event, more) {
    this.list.push({ ...event, ...more, t: performance.now() });
    if (this.list.length > MAX_EVENTS) this.list.shift();
  }

  /** @param {string} name */
  mark(name) {
    this.add({ type: `omnicall.${name}` });
  }
}

/** @param {import('./conversation.js').Conversation} talk */
export function expose(talk) {
  const surface = {
    get state() {
      return talk.phase;
    },
    get call() {
      return talk.call;
    },
    /** What the server confirmed, or what the next call begins with. */
    get mode() {
      return talk.mode.now;
    },
    get events() {
      return [...talk.log.list];
    },
    stats: () => ({ ...talk.figures, answer: talk.talk.latency }),
    captions: () => talk.captions.list(),
    levels: () => ({ user_db: talk.userMeter.level_db, assistant_db: talk.assistantMeter.level_db }),
  };
  Object.defineProperty(window, 'omnicall', { value: Object.freeze(surface) });
}
