/** Clients in a page: `run(name, url, version, only)`, with a microphone made of files and ears for a stream. */

import { AgentsAdapter, agents } from './agents_adapter.mjs';
import { Report, converse, until } from './steps.mjs';

const HZ = 24000;
const LOUD = 0.02;

/** A microphone that says files. */
class Voice {
  #context = new AudioContext({ sampleRate: 48000 });
  #out = this.#context.createMediaStreamDestination();

  get stream() {
    return this.#out.stream;
  }

  say = async (name) => {
    const pcm = new Int16Array(await (await fetch(`/speech/${name}.${HZ}.pcm`)).arrayBuffer());
    const buffer = this.#context.createBuffer(1, pcm.length, HZ);
    buffer.getChannelData(0).set(Float32Array.from(pcm, (sample) => sample / 32768));
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#out);
    source.start();
  };

  /** Calls back for each 100 ms in which somebody speaks in this stream. */
  listen(stream, heard) {
    const analyser = this.#context.createAnalyser();
    this.#context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      if (samples.some((sample) => Math.abs(sample) > LOUD)) heard(0.1);
    }, 100);
  }
}

async function agentsInPage(report, url, only) {
  const sdk = await import('/modules/@openai/agents-realtime/dist/bundle/openai-realtime-agents.mjs');
  const voice = new Voice();
  const adapter = new AgentsAdapter(voice.say);
  const audioElement = new Audio();
  audioElement.autoplay = true;
  const transport = new sdk.OpenAIRealtimeWebRTC({
    mediaStream: voice.stream, audioElement, baseUrl: `${url}/v1/realtime/calls`, useInsecureApiKey: true,
  });
  const session = new sdk.RealtimeSession(agents(sdk, adapter), { transport, model: 'omnicall' });
  adapter.watch(session);
  await report.step('connects', async () => {
    await session.connect({ apiKey: 'none' });
    await until(() => audioElement.srcObject);
  });
  voice.listen(audioElement.srcObject, (seconds) => { adapter.loudS += seconds; });
  await converse(report, adapter, only);
  for (const error of adapter.errors) report.note(`error: ${error}`);
}

async function omnicallInPage(report, url, only) {
  const { OmnicallCall } = await import('/lib/omnicall.js');
  const voice = new Voice();
  const session = {
    tools: [{
      type: 'function', name: 'get_weather', description: 'The weather in a city.',
      parameters: { type: 'object', properties: { about: { type: 'string' } } },
    }],
  };
  const call = new OmnicallCall({ url, audio: voice.stream.getAudioTracks()[0], session });
  const adapter = {
    said: '', heard: '', loudS: 0, calls: 0, interruptions: 0,
    say: voice.say,
    type: async (text) => call.write(text),
    hangUp: async () => {
      call.hangUp();
      await until(() => call.state === 'ended');
    },
  };
  call.addEventListener('audio', ({ detail }) => {
    const loudspeaker = new Audio();
    loudspeaker.srcObject = detail.stream;
    voice.listen(detail.stream, (seconds) => { adapter.loudS += seconds; });
  });
  call.addEventListener('message', ({ detail }) => take(call, adapter, detail));
  await report.step('connects', () => call.connect());
  await converse(report, adapter, only);
}

function take(call, adapter, event) {
  switch (event.type) {
    case 'response.output_audio_transcript.delta':
      adapter.said += event.delta;
      break;
    case 'conversation.item.input_audio_transcription.completed':
      adapter.heard += event.transcript;
      break;
    case 'response.done':
      adapter.interruptions += event.response.status === 'cancelled';
      break;
    case 'response.function_call_arguments.done':
      adapter.calls += 1;
      call.send({
        type: 'conversation.item.create',
        item: { type: 'function_call_output', call_id: event.call_id, output: 'sunny' },
      });
      call.send({ type: 'response.create' });
      break;
    default:
  }
}

const CLIENTS = { agents: agentsInPage, omnicall: omnicallInPage };

export async function run(name, url, version, only) {
  await CLIENTS[name](new Report(window.tell, version), url, only);
}
