/** `openai` in Node over a WebSocket, wss only: NODE_EXTRA_CA_CERTS=... node openai_node.mjs URL FOLDER NODE_MODULES */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { Microphone, Report, converse, loudSeconds, until } from './steps.mjs';

const TOOL = {
  type: 'function',
  name: 'get_weather',
  description: 'The weather in a city.',
  parameters: { type: 'object', properties: { about: { type: 'string' } } },
};

const [url, folder, modules] = process.argv.slice(2);
const require = createRequire(join(modules, 'any.js'));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const [{ default: OpenAI }, { OpenAIRealtimeWS }] = [await load('openai'), await load('openai/realtime/ws')];
const { version } = JSON.parse(readFileSync(join(modules, 'openai/package.json'), 'utf8'));
const report = new Report((line) => console.log(line), version);

const client = new OpenAI({ apiKey: 'none', baseURL: `${url}/v1` });
const socket = new OpenAIRealtimeWS({ model: 'omnicall' }, client);
const errors = [];
const seen = new Set();
const adapter = {
  said: '',
  heard: '',
  loudS: 0,
  calls: 0,
  interruptions: 0,
  say: (name) => microphone.say(name),
  type: async (text) => {
    const content = [{ type: 'input_text', text }];
    socket.send({ type: 'conversation.item.create', item: { type: 'message', role: 'user', content } });
    socket.send({ type: 'response.create' });
  },
  hangUp: async () => {
    microphone.stop();
    socket.close();
  },
};
socket.on('error', (error) => errors.push(error.message));
socket.on('event', ({ type }) => seen.add(type));
socket.on('response.output_audio.delta', ({ delta }) => {
  const pcm = Buffer.from(delta, 'base64');
  adapter.loudS += loudSeconds(pcm.buffer.slice(pcm.byteOffset, pcm.byteOffset + pcm.length));
});
socket.on('response.output_audio_transcript.delta', ({ delta }) => { adapter.said += delta; });
socket.on('conversation.item.input_audio_transcription.completed', ({ transcript }) => { adapter.heard += transcript; });
socket.on('response.done', ({ response }) => { adapter.interruptions += response.status === 'cancelled'; });
socket.on('response.function_call_arguments.done', ({ call_id }) => {
  adapter.calls += 1;
  const item = { type: 'function_call_output', call_id, output: 'sunny' };
  socket.send({ type: 'conversation.item.create', item });
  socket.send({ type: 'response.create' });
});
await report.step('connects', async () => {
  await until(() => seen.has('session.created') || errors.length);
  if (errors.length) throw new Error(errors[0]);
  const audio = { input: { turn_detection: { type: 'server_vad' } } };
  socket.send({ type: 'session.update', session: { type: 'realtime', audio, tools: [TOOL] } });
  await until(() => seen.has('session.updated'));
});
const microphone = new Microphone(
  (piece) => socket.send({ type: 'input_audio_buffer.append', audio: piece.toString('base64') }),
  (name) => readFileSync(join(folder, name)),
);
await converse(report, adapter, process.env.OMNICALL_STEPS);
for (const error of errors) report.note(`error: ${error}`);
process.exit(0);
