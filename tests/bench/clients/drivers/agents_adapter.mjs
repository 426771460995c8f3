/** A session of `@openai/agents-realtime`, whichever transport carries it: for Node and for pages. */

import { until } from './steps.mjs';

/** The agents: one with a function, which can hand over to another. */
export function agents({ RealtimeAgent, tool }, adapter) {
  const weather = tool({
    name: 'get_weather',
    description: 'The weather in a city.',
    parameters: {
      type: 'object', properties: { about: { type: 'string' } }, required: ['about'], additionalProperties: false,
    },
    strict: true,
    execute: async () => {
      adapter.calls += 1;
      return 'sunny';
    },
  });
  const helper = new RealtimeAgent({ name: 'Helper', instructions: 'Help.', handoffDescription: 'Helps.' });
  return new RealtimeAgent({ name: 'Desk', instructions: 'Be brief.', tools: [weather], handoffs: [helper] });
}

export class AgentsAdapter {
  said = '';
  heard = '';
  loudS = 0;
  calls = 0;
  interruptions = 0;
  errors = [];
  #handedTo = '';

  /** @param {(name: string) => void} say */
  constructor(say) {
    this.say = say;
  }

  watch(session) {
    this.session = session;
    // Over WebRTC the SDK tells of no interruption by voice; the server does.
    session.on('audio_interrupted', () => { this.interruptions += 1; });
    session.on('error', (error) => this.errors.push(JSON.stringify(error?.error ?? error)));
    session.on('agent_handoff', (_context, _from, to) => { this.#handedTo = to.name; });
    session.transport.on('audio_transcript_delta', ({ delta }) => { this.said += delta; });
    session.transport.on('*', (event) => {
      if (event.type === 'output_audio_buffer.cleared') this.interruptions += 1;
      if (event.type === 'conversation.item.input_audio_transcription.completed') this.heard += event.transcript;
    });
  }

  get extra() {
    return {
      handoff: async () => {
        await this.type('transfer_to_Helper please');
        await until(() => this.#handedTo === 'Helper');
      },
      history: async () => {
        const roles = this.session.history.filter((item) => item.type === 'message').map((item) => item.role);
        const texts = JSON.stringify(this.session.history);
        if (!(roles.includes('user') && roles.includes('assistant'))) throw new Error(`roles ${roles}`);
        for (const part of ['good morning to you', 'get_weather', 'sunny']) {
          if (!texts.includes(part)) throw new Error(`without ${part}`);
        }
      },
    };
  }

  async type(text) {
    this.session.sendMessage(text);
  }

  async hangUp() {
    this.session.close();
  }
}
