/** `@openai/agents-realtime` in Node over a WebSocket: node agents_node.mjs URL FOLDER (NODE_MODULES). */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { AgentsAdapter, agents } from './agents_adapter.mjs';
import { Microphone, Report, converse, loudSeconds } from './steps.mjs';

const [url, folder, modules] = process.argv.slice(2);
const require = createRequire(join(modules, 'any.js'));
const sdk = await import(pathToFileURL(require.resolve('@openai/agents-realtime')));
const { version } = JSON.parse(readFileSync(join(modules, '@openai/agents-realtime/package.json'), 'utf8'));
const report = new Report((line) => console.log(line), version);

const adapter = new AgentsAdapter((name) => microphone.say(name));
const session = new sdk.RealtimeSession(agents(sdk, adapter), { transport: 'websocket', model: 'omnicall' });
adapter.watch(session);
session.on('audio', ({ data }) => { adapter.loudS += loudSeconds(data); });
let microphone;
await report.step('connects', () =>
  session.connect({ apiKey: 'none', url: `${url.replace('http', 'ws')}/v1/realtime?model=omnicall` }));
microphone = new Microphone(
  (piece) => session.sendAudio(piece.buffer.slice(piece.byteOffset, piece.byteOffset + piece.length)),
  (name) => readFileSync(join(folder, name)),
);
const hangUp = adapter.hangUp.bind(adapter);
adapter.hangUp = async () => {
  microphone.stop();
  await hangUp();
};
await converse(report, adapter, process.env.OMNICALL_STEPS);
for (const error of adapter.errors) report.note(`error: ${error}`);
process.exit(0);
