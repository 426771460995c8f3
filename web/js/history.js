/** Conversations kept in the browser: IndexedDB, on this device only. Whoever calls handles a browser that refuses. */

const NAME = 'omnicall';
const VERSION = 1;
const MAX_CHATS = 300;
const MAX_MEDIA_BYTES = 20 * 1024 * 1024;

/** @typedef {import('./chat.js').Chat} Chat */

/**
 * @typedef {Object} Media a sound or file that belongs to a message
 * @property {string} chat its conversation's id
 * @property {string} row its message's id
 * @property {number} index its place in the message
 * @property {Blob} blob
 */

export class History {
  /** @type {Promise<IDBDatabase>|null} */ #database = null;
  #factory;

  /** @param {IDBFactory} [factory] */
  constructor(factory = globalThis.indexedDB) {
    this.#factory = factory;
  }

  /** @param {Chat} chat written over the one of that id; the oldest go where there are too many */
  async keep(chat) {
    const store = await this.#store('chats', 'readwrite');
    await done(store.put(chat));
    if ((await done(store.count())) > MAX_CHATS) await this.#dropOldest();
  }

  /** @param {string} id @returns {Promise<Chat|undefined>} */
  async get(id) {
    return done((await this.#store('chats')).get(id));
  }

  /** @returns {Promise<Chat[]>} newest first */
  async list() {
    const chats = await done((await this.#store('chats')).index('changed_ms').getAll());
    return chats.reverse();
  }

  /** @param {string} id with what belongs to it */
  async delete(id) {
    const database = await this.#open();
    const change = database.transaction(['chats', 'media'], 'readwrite');
    change.objectStore('chats').delete(id);
    change.objectStore('media').delete(IDBKeyRange.bound([id], [id, []]));
    await over(change);
  }

  async clear() {
    const database = await this.#open();
    const change = database.transaction(['chats', 'media'], 'readwrite');
    change.objectStore('chats').clear();
    change.objectStore('media').clear();
    await over(change);
  }

  /** @param {Media} media larger ones are not kept */
  async keepMedia(media) {
    if (media.blob.size > MAX_MEDIA_BYTES) return;
    await done((await this.#store('media', 'readwrite')).put(media));
  }

  /** @param {string} chat its id @returns {Promise<Media[]>} in the order of messages' ids and places */
  async mediaOf(chat) {
    return done((await this.#store('media')).getAll(IDBKeyRange.bound([chat], [chat, []])));
  }

  async #dropOldest() {
    const store = await this.#store('chats');
    const oldest = await done(store.index('changed_ms').getKey(IDBKeyRange.lowerBound(0)));
    if (oldest !== undefined) await this.delete(String(oldest));
  }

  /** @param {'chats'|'media'} name @param {IDBTransactionMode} [mode] */
  async #store(name, mode = 'readonly') {
    return (await this.#open()).transaction(name, mode).objectStore(name);
  }

  /** @returns {Promise<IDBDatabase>} */
  #open() {
    this.#database ??= this.#connect().catch((error) => {
      this.#database = null;
      throw error;
    });
    return this.#database;
  }

  /** @returns {Promise<IDBDatabase>} */
  async #connect() {
    // Some private windows have none.
    if (!this.#factory) throw new Error('no storage');
    const request = this.#factory.open(NAME, VERSION);
    request.addEventListener('upgradeneeded', () => {
      const chats = request.result.createObjectStore('chats', { keyPath: 'id' });
      chats.createIndex('changed_ms', 'changed_ms');
      request.result.createObjectStore('media', { keyPath: ['chat', 'row', 'index'] });
    });
    const database = await done(request);
    // Another tab with a newer page must not wait for this one.
    database.addEventListener('versionchange', () => {
      database.close();
      this.#database = null;
    });
    return database;
  }
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener('success', () => resolve(request.result));
    request.addEventListener('error', () => reject(request.error));
  });
}

/** @param {IDBTransaction} change @returns {Promise<void>} */
function over(change) {
  return new Promise((resolve, reject) => {
    change.addEventListener('complete', () => resolve());
    change.addEventListener('abort', () => reject(change.error));
    change.addEventListener('error', () => reject(change.error));
  });
}
