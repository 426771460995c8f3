/** What is tried with each client, in JavaScript: the same as in steps.py, in a page or in Node. */

const STEP_S = 45;
const GREETING = 'good morning to you';
const WEATHER = 'get_weather in Rome';
const STORY = 'tell me a story';
const STORY_END = 'water all along';

export const sleep = (seconds) => new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });

/** Tells of each step in a line of JSON by `write`. */
export class Report {
  constructor(write, version) {
    this.write = (told) => write(JSON.stringify(told));
    this.write({ version });
  }

  note(text) {
    this.write({ note: text });
  }

  async step(name, action) {
    const begun = Date.now();
    const told = { step: name, ok: true };
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('took too long')), STEP_S * 1000);
    });
    try {
      await Promise.race([action(), late]);
    } catch (error) {
      Object.assign(told, { ok: false, why: String(error?.message ?? error).slice(0, 300) });
    }
    clearTimeout(timer);
    this.write({ ...told, s: (Date.now() - begun) / 1000 });
  }
}

/** Waits at most as long as a step may take, so that no loop outlives its step. */
export async function until(condition) {
  const end = Date.now() + STEP_S * 1000;
  while (!condition()) {
    if (Date.now() > end) throw new Error('did not come');
    await sleep(0.05);
  }
}

async function settled(client, quietS = 2) {
  const end = Date.now() + STEP_S * 1000;
  let before = client.loudS;
  let since = Date.now();
  while (Date.now() < Math.min(since + quietS * 1000, end)) {
    await sleep(0.1);
    if (client.loudS !== before) [before, since] = [client.loudS, Date.now()];
  }
}

/**
 * All steps but the first. The adapter has: said, heard (texts that grow), loudS (seconds of the
 * assistant's voice), calls, interruptions (counts), say(name), type(text), hangUp(); extra: more steps.
 * `only`: the names of those that are taken, with commas between them; all where it is empty.
 */
export async function converse(report, client, only = '') {
  const steps = {
    speech: async () => {
      const begun = client.loudS;
      client.say('what_time');
      await until(() => client.loudS > begun + 0.5);
    },
    captions: async () => {
      const begun = client.said.length;
      client.say('what_time');
      await until(() => client.heard.trim() && client.said.slice(begun).trim());
    },
    text: async () => {
      const begun = client.said.length;
      await client.type(GREETING);
      await until(() => client.said.slice(begun).toLowerCase().includes('morning'));
    },
    tools: async () => {
      const begun = client.said.length;
      await client.type(WEATHER);
      await until(() => client.calls && client.said.slice(begun).toLowerCase().includes('i found'));
    },
    ...client.extra,
    interruption: async () => {
      const [begun, cut, loud] = [client.said.length, client.interruptions, client.loudS];
      await client.type(STORY);
      await until(() => client.loudS > loud + 2);
      // Longer than an acknowledgement, whatever it is understood to be.
      client.say('what_time');
      await until(() => client.interruptions > cut);
      await settled(client);
      if (client.said.slice(begun).toLowerCase().includes(STORY_END)) throw new Error('told to its end');
    },
  };
  const isWanted = ([name]) => !only || only.split(',').includes(name);
  for (const [name, action] of Object.entries(steps).filter(isWanted)) {
    await settled(client);
    await report.step(name, action);
  }
  await report.step('hang-up', () => client.hangUp());
}

/** Seconds of this 16 bit sound if somebody speaks in it, else 0. */
export function loudSeconds(buffer, rate = 24000) {
  const samples = new Int16Array(buffer, 0, buffer.byteLength >> 1);
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / (samples.length || 1);
  return Math.sqrt(power) > 800 ? samples.length / rate : 0;
}

/** Sends silence, and speech where it is told to, in real time: 100 ms of 24 kHz a piece. */
export class Microphone {
  #unsaid = Buffer.alloc(0);

  constructor(send, read) {
    this.send = send;
    this.read = read;
    this.begun = Date.now();
    this.count = 0;
    this.timer = setInterval(() => this.#tick(), 20);
  }

  say(name) {
    this.#unsaid = Buffer.concat([this.#unsaid, this.read(`${name}.24000.pcm`)]);
  }

  stop() {
    clearInterval(this.timer);
  }

  #tick() {
    while (Date.now() >= this.begun + this.count * 100) {
      const piece = Buffer.alloc(4800);
      this.#unsaid.copy(piece);
      this.#unsaid = this.#unsaid.subarray(4800);
      this.count += 1;
      this.send(piece);
    }
  }
}
