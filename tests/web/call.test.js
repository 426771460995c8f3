/** A call through the library: connecting, saying, interrupting, coming back, ending. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';

import { Captions, OmnicallCall, VERSION } from '../../web/lib/omnicall.js';
import { Line, until } from './line.js';

/** @type {OmnicallCall} */ let call;
/** @type {any[]} */ let told = [];

beforeEach(() => Line.reset());
afterEach(() => call?.hangUp());

/** @param {import('../../web/lib/omnicall.js').Options} [options] */
function placed(options = {}) {
  call = new OmnicallCall({ url: 'https://calls.example', iceServers: [], audio: false, reconnect: { first_ms: 1 }, ...options });
  told = [];
  for (const type of ['state', 'notice', 'queue', 'ended']) {
    call.addEventListener(type, (event) => told.push([type, /** @type {CustomEvent} */ (event).detail]));
  }
  return call.connect();
}

/** @param {import('../../web/lib/omnicall.js').Options} [options] */
async function served(options) {
  const connecting = placed(options);
  await until(() => Line.now && call.id);
  Line.now.connect();
  await connecting;
}

const endings = () => told.filter(([type]) => type === 'ended').map(([, end]) => end);
const items = () => Line.now.channel.sent.filter((event) => event.item).map(({ item }) => [item.role, item.content[0].text]);

test('the version is that of the project', () => {
  const project = readFileSync(new URL('../../pyproject.toml', import.meta.url), 'utf8');
  assert.equal(project.match(/^version = "(.*)"/m)?.[1], VERSION);
});

test('a call is connected when it is served, and its place in the queue is told before', async () => {
  let isServed = false;
  const connecting = placed({ mode: 'half_duplex', session: { instructions: 'Be brief.' } }).then(() => { isServed = true; });
  await until(() => Line.now && call.id);
  Line.now.connect(false);
  Line.now.tell({ type: 'session.queued', position: 2, eta_s: 9 });
  assert.deepEqual([call.queue, call.state, isServed], [{ position: 2, eta_s: 9 }, 'connected', false]);
  Line.now.tell({ type: 'session.created', session: {} });
  await connecting;
  assert.equal(call.queue, null);
  const [session] = Line.offered;
  assert.deepEqual([session.instructions, session.audio.input.turn_detection], ['Be brief.', { type: 'server_vad' }]);
});

test('a refused call says why, in the error and in its end', async () => {
  Line.refuse = [503];
  await assert.rejects(placed(), { name: 'CallError', message: 'Not now.', kind: 'refused' });
  assert.deepEqual(endings().map((end) => [end.kind, end.message]), [['refused', 'Not now.']]);
  await assert.rejects(call.connect(), /placed once/);
});

test('a microphone that is missing ends the call in words', async () => {
  await assert.rejects(placed({ audio: true }), { kind: 'device', message: /microphone needs a page opened with https/ });
  assert.equal(Line.peers.length, 0);
});

test('what is written before the call is served is sent once, when it is', async () => {
  const connecting = placed();
  call.write('Hello.');
  await until(() => Line.now && call.id);
  Line.now.connect(false);
  assert.deepEqual(Line.now.sentTypes, []);
  Line.now.tell({ type: 'session.created', session: {} });
  await connecting;
  assert.deepEqual(Line.now.sentTypes, ['conversation.item.create', 'output_audio_buffer.clear', 'response.create']);
  assert.deepEqual(call.captions.list().map((row) => [row.role, row.text]), [['user', 'Hello.']]);
});

test('warnings, errors and failed answers are told in words, a stop that came too late is not', async () => {
  await served();
  Line.now.tell({ type: 'session.warning', code: 'w', message: 'Soon over.' });
  Line.now.tell({ type: 'error', error: { code: 'response_cancel_not_active', message: 'There is none.' } });
  Line.now.tell({ type: 'error', error: { code: 'invalid', message: 'session.speed: too fast.' } });
  Line.now.tell({ type: 'response.done', response: { status_details: { error: { code: 'e', message: 'The engine failed.' } } } });
  const notices = told.filter(([type]) => type === 'notice').map(([, { tone, message }]) => [tone, message]);
  assert.deepEqual(notices, [['warning', 'Soon over.'], ['error', 'session.speed: too fast.'], ['error', 'The engine failed.']]);
});

test('an answer that was stopped before it began is stopped when it begins, where nothing is answered unasked', async () => {
  await served({ mode: 'turn_based' });
  call.write('Tell me a story.');
  call.interrupt();
  const before = Line.now.sentTypes.length;
  Line.now.tell({ type: 'response.created', response: { id: 'r1' } });
  assert.deepEqual(Line.now.sentTypes.slice(before), ['output_audio_buffer.clear', 'response.cancel']);
  Line.now.tell({ type: 'response.created', response: { id: 'r2' } });
  assert.equal(Line.now.sentTypes.length, before + 2);
});

test('what is said while the button is held is a turn of the user; a short tap is none', async () => {
  const microphone = Object.assign(new EventTarget(), { stop() {}, enabled: true });
  await served({ mode: 'turn_based', audio: /** @type {any} */ (microphone) });
  assert.equal(microphone.enabled, false);
  call.pushToTalk.hold();
  assert.equal(microphone.enabled, true);
  call.pushToTalk.release();
  assert.equal(microphone.enabled, false);
  call.pushToTalk.hold();
  await new Promise((resolve) => setTimeout(resolve, 300));
  call.pushToTalk.release();
  await until(() => Line.now.sentTypes.includes('response.create'));
  assert.deepEqual(Line.now.sentTypes, [
    ...Array(3).fill('input_audio_buffer.clear'), 'input_audio_buffer.commit', 'output_audio_buffer.clear', 'response.create',
  ]);
});

test('another microphone is used from now on, and one that was given stays with its owner', async () => {
  const track = () => /** @type {any} */ (Object.assign(new EventTarget(), { isStopped: false, stop() { this.isStopped = true; } }));
  const [first, second] = [track(), track()];
  await served({ audio: first, muted: true });
  await call.useMicrophone(second);
  assert.deepEqual(Line.now.replaced, [second]);
  assert.deepEqual([call.microphone, second.enabled, first.isStopped], [second, false, false]);
  second.dispatchEvent(new Event('ended'));
  assert.equal(call.microphone, null);
});

test('a lost conversation goes on: settings, what was said and the open question reach the new session', async () => {
  await served();
  call.update({ instructions: 'Be brief.' });
  Line.now.tell({ type: 'session.updated', session: {} });
  Line.now.tell({ type: 'response.output_audio_transcript.done', item_id: 'a1', response_id: 'r1', transcript: 'Good day.' });
  call.write('And now?');
  Line.now.become('failed');
  assert.equal(call.state, 'reconnecting');
  call.update({ audio: { output: { voice: 'two' } } });
  await until(() => Line.peers.length === 2 && call.id === 'rtc_2');
  assert.equal(Line.offered[1].instructions, 'Be brief.');
  Line.now.connect();
  assert.equal(call.state, 'connected');
  assert.deepEqual(items(), [['assistant', 'Good day.'], ['user', 'And now?']]);
  assert.deepEqual(Line.now.sentTypes.slice(2), ['response.create', 'session.update']);
  assert.deepEqual([call.captions.list().length, endings()], [2, []]);
  assert.deepEqual(Line.hungUp, ['rtc_1']);
});

test('a session that the server keeps goes on over another connection, and is told only what did not arrive', async () => {
  Line.isKeeping = true;
  await served();
  call.mute(true);
  call.write('Did this arrive?');
  const [kept] = call.captions.list();
  Line.now.tell({ type: 'response.output_audio_transcript.delta', item_id: 'a1', response_id: 'r1', delta: 'Good' });
  Line.now.become('failed');
  call.write('And this?');
  await until(() => Line.peers.length === 2 && Line.resumes.length === 2);
  assert.deepEqual(Line.resumes, ['new', 'token_1']);
  assert.deepEqual([call.state, Line.hungUp], ['reconnecting', []]);
  Line.now.connect();
  assert.equal(call.id, 'rtc_1');
  const said = { id: 'a1', type: 'message', role: 'assistant', status: 'in_progress', content: [{ transcript: 'Good day' }] };
  Line.now.tell({ type: 'session.continued', items: [said] });
  Line.now.tell({ type: 'response.output_audio_transcript.delta', item_id: 'a1', response_id: 'r1', delta: ' to you.' });
  assert.deepEqual(items(), [['user', 'Did this arrive?'], ['user', 'And this?']]);
  assert.equal(Line.now.sentTypes[0], 'session.mute');
  const rows = call.captions.list().map(({ role, text, status }) => [role, text, status]);
  assert.deepEqual(rows.filter(([role]) => role === 'assistant'), [['assistant', 'Good day to you.', 'growing']]);
  assert.deepEqual([kept.id, rows.length], [call.captions.list()[0].id, 3]);
});

test('a session that the server no longer has is begun anew and told what was said', async () => {
  Line.isKeeping = true;
  await served();
  Line.now.tell({ type: 'response.output_audio_transcript.done', item_id: 'a1', response_id: 'r1', transcript: 'Good day.' });
  Line.refuse = [410];
  Line.now.become('failed');
  await until(() => Line.peers.length === 3 && call.id === 'rtc_2');
  Line.now.connect();
  assert.deepEqual([Line.resumes, items()], [['new', 'new'], [['assistant', 'Good day.']]]);
});

test('a page that is left for a moment comes back into its session, one that is left for good ends it', async () => {
  Line.isKeeping = true;
  await served();
  const resume = call.suspend();
  assert.deepEqual([resume, Line.hungUp, endings()[0].kind], ['token_1', [], 'away']);
  const captions = new Captions();
  captions.typed('u1', 'Look.');
  await served({ resume, goOn: true, captions });
  assert.deepEqual([call.id, items(), Line.resumes], ['rtc_1', [], ['new', 'token_1']]);
  call.leave();
  assert.deepEqual(Line.hungUp, ['rtc_1']);
});

test('a disturbed connection gets a new ICE session, and is replaced only if that brings nothing', async () => {
  Line.isKeeping = true;
  Line.restarts = [];
  await served();
  const [first] = Line.peers;
  first.remoteDescription = { sdp: 'a=mid:0\r\na=ice-ufrag:old\r\na=ice-pwd:old\r\na=candidate:9\r\n' };
  first.become('failed');
  await until(() => first.remote.length === 2);
  assert.equal(first.remote[1], 'a=mid:0\r\na=candidate:1\r\na=ice-ufrag:new\r\na=ice-pwd:secret\r\n');
  assert.match(Line.restarts[0], /a=ice-ufrag:/);
  first.connectionState = 'connected';
  for (let more = 0; call.state !== 'connected' && more < 40; more += 1) {
    first.received += 1;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.deepEqual([call.state, Line.peers.length], ['connected', 1]);
});

test('sound is sent with copies while the server misses some of it; a change that fails is tried again, but not for ever', async (t) => {
  let later_ms = 0;
  const [now, after] = [performance.now.bind(performance), setTimeout];
  t.mock.method(performance, 'now', () => now() + later_ms);
  t.mock.method(globalThis, 'setTimeout', (/** @type {() => void} */ action, /** @type {number} */ ms) => after(action, ms / 30));
  await served();
  const peer = Line.now;
  const looked = (more = 2, looks = peer.looks) => until(() => peer.looks >= looks + more);
  peer.remoteDescription = { sdp: 'm=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\na=rtpmap:63 red/48000/2\r\n' };
  Object.assign(peer, { flow: 1, missed: 0.02 });
  await looked();
  assert.equal(peer.remote.length, 1);
  Object.assign(peer, { missed: 0.04, refusals: 1 });
  await until(() => peer.remote.length === 2);
  assert.match(peer.remote[1], /SAVPF 63 111\r/);
  peer.missed = 0;
  await looked();
  Object.assign(peer, { refusals: 2 });
  later_ms = 20_000;
  await until(() => peer.remote.length === 3);
  assert.match(peer.remote[2], /SAVPF 111 63\r/);
  Object.assign(peer, { missed: 0.04, refusals: 9 });
  await until(() => peer.refusals === 6);
  await looked();
  assert.deepEqual([peer.refusals, peer.remote.length, peer.signalingState, call.state], [6, 3, 'stable', 'connected']);
});

test('what is written while there is no connection is told once', async () => {
  await served();
  Line.now.become('failed');
  call.write('Are you there?');
  await until(() => Line.peers.length === 2 && call.id === 'rtc_2');
  // A connection that breaks before it is served has told nothing.
  Line.now.connect(false);
  Line.now.become('failed');
  await until(() => Line.peers.length === 3 && call.id === 'rtc_3');
  Line.now.connect();
  assert.deepEqual(items(), [['user', 'Are you there?']]);
  Line.now.become('failed');
  await until(() => Line.peers.length === 4 && call.id === 'rtc_4');
  Line.now.connect();
  assert.deepEqual(items(), [['user', 'Are you there?']]);
});

test('a server that is away is tried again, one that refuses the key is not', async () => {
  await served();
  Line.refuse = [502, 503, 401];
  Line.now.tell({ type: 'session.ended', reason: 'engine_gone', message: 'Call again.' });
  await until(() => endings().length);
  assert.deepEqual([Line.refuse, endings()[0].refusal?.kind], [[], 'key']);
});

test('a call that the server ends on purpose, or that may not come back, is over with the reason', async () => {
  await served();
  Line.now.tell({ type: 'session.ended', reason: 'goodbye', message: 'Goodbye.' });
  assert.deepEqual(endings().map((end) => [end.kind, end.reason, end.message]), [['server', 'goodbye', 'Goodbye.']]);
  await served({ reconnect: false });
  Line.now.become('failed');
  await until(() => endings().length);
  assert.deepEqual(endings().map((end) => end.kind), ['lost']);
});

test('hanging up ends the call once, on the server too, and stops a search for it', async () => {
  await served();
  call.hangUp();
  call.hangUp();
  assert.deepEqual([endings().map((end) => end.kind), Line.hungUp], [['hangup'], ['rtc_1']]);
  await served();
  Line.refuse = Array(50).fill(502);
  Line.now.become('failed');
  call.hangUp();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(Line.refuse.length, 50);
});

test('a call that goes on from an earlier conversation tells it first', async () => {
  const captions = new Captions();
  captions.typed('u1', 'Look.', [{ name: 'cat.png', kind: 'image' }]);
  captions.note('a note');
  await served({ captions, goOn: true });
  call.write('What was it?');
  assert.deepEqual(items(), [['user', '[cat.png] Look.'], ['user', 'What was it?']]);
  assert.equal(captions.list().length, 3);
  call.hangUp();
  await served({ captions });
  assert.deepEqual(items(), []);
});

test('a message that is taken back is deleted with what followed, and a refusal of that is no news', async () => {
  await served();
  const first = call.write('One.');
  Line.now.tell({ type: 'response.created', response: { id: 'r1' } });
  Line.now.tell({ type: 'response.output_audio_transcript.done', item_id: 'a1', response_id: 'r1', transcript: 'Two.' });
  call.captions.note('a note');
  call.takeBack(first);
  const deleted = Line.now.channel.sent.filter((event) => event.type === 'conversation.item.delete');
  assert.deepEqual(deleted.map((event) => event.item_id), [first, 'a1']);
  assert.deepEqual([call.captions.list(), Line.now.sentTypes.includes('response.cancel')], [[], true]);
  const refusal = (/** @type {string} */ event_id) => ({ type: 'error', error: { event_id, code: 'item_not_found', message: 'No such item.' } });
  Line.now.tell(refusal(deleted[0].event_id));
  Line.now.tell(refusal('another'));
  assert.equal(told.filter(([type]) => type === 'notice').length, 1);
});

test('that a call is recorded is told once, however often it comes back', async () => {
  const warn = (/** @type {string} */ code) => Line.now.tell({ type: 'session.warning', code, message: code });
  await served();
  warn('recorded');
  warn('soon_over');
  Line.now.become('failed');
  await until(() => Line.peers.length === 2 && call.id === 'rtc_2');
  Line.now.connect();
  warn('recorded');
  warn('soon_over');
  const codes = () => told.filter(([type]) => type === 'notice').map(([, { code }]) => code);
  assert.deepEqual(codes(), ['recorded', 'soon_over', 'soon_over']);
  call.hangUp();
  await served();
  warn('recorded');
  assert.deepEqual(codes(), ['recorded']);
  warn('recorded_pictures');
  warn('recorded_pictures');
  assert.deepEqual([codes(), call.recorded], [['recorded', 'recorded_pictures'], 'recorded_pictures']);
});

test('a page that comes back into its session is not told again that it is recorded', async () => {
  Line.isKeeping = true;
  const codes = () => told.filter(([type]) => type === 'notice').map(([, { code }]) => code);
  const warn = () => Line.now.tell({ type: 'session.warning', code: 'recorded', message: 'recorded' });
  await served();
  warn();
  assert.deepEqual(codes(), ['recorded']);
  await served({ resume: call.suspend() });
  warn();
  assert.deepEqual([codes(), Line.resumes, call.recorded], [[], ['new', 'token_1'], 'recorded']);
  const resume = call.suspend();
  Line.refuse = [410];
  await served({ resume });
  warn();
  assert.deepEqual([codes(), Line.resumes], [['recorded'], ['new', 'token_1', 'new']]);
});

test('another answer is asked for in place of one', async () => {
  await served();
  call.write('One.');
  Line.now.tell({ type: 'response.output_audio_transcript.done', item_id: 'a1', response_id: 'r1', transcript: 'Two.' });
  call.answerAnew('a1');
  assert.deepEqual(Line.now.sentTypes.slice(-3), ['conversation.item.delete', 'output_audio_buffer.clear', 'response.create']);
  assert.deepEqual(call.captions.list().map((row) => row.text), ['One.']);
});
