// What the document says, compared with what the application itself is told by mediasoup, while real media flow.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { AGENT, all, eventually } from './support/application.mjs';
import { CODECS } from './support/client.mjs';
import { conference, crowd, server } from './support/conference.mjs';

/** Members that change from one moment to the next in either direction. */
const MOMENTARY = /bitrate|^timestamp$|^score$|^jitter$|^fractionLost$|^roundTripTime$|^packetsLost$|packetloss/i;
/** What the agent does not pass on. */
const WITHHELD = ['label', 'protocol', 'rid'];

/** Claims that statistics in the document were read between two readings of the application, and that none is missing. */
function assertBetween(before, shown, after, what) {
  for (const [key, first] of Object.entries(before)) {
    const last = after[key];
    // What mediasoup estimates may have gone by the second reading, and then also before.
    if (key in after) assert.equal(key in shown, !WITHHELD.includes(key), `${what}.${key}: is it shown`);
    if (MOMENTARY.test(key) || WITHHELD.includes(key) || key === 'iceSelectedTuple') continue;
    if (typeof first === 'number') {
      assert.ok(first <= shown[key] && shown[key] <= last, `${what}.${key}: ${first} <= ${shown[key]} <= ${last}`);
    } else if (JSON.stringify(first) === JSON.stringify(last)) {
      assert.deepEqual(shown[key], first, `${what}.${key}`);
    }
  }
  const unknown = Object.keys(shown).filter((key) => !(key in after) && !(key in before));
  assert.deepEqual(unknown, [], `${what} has more members than mediasoup gave it`);
}

const byId = (list, { id }) => list.find((shown) => shown.id === id);

test('every number is what the application reads at the same moment', async (t) => {
  const { application, transports, producers, consumers, dataProducer, dataConsumer, bob, talk } = await conference(t);
  talk();
  await eventually('media at the other end', () => bob.received > 20_000);
  const objects = [...transports, ...producers, ...consumers, dataProducer, dataConsumer];
  const before = await application.call(undefined, 'getStatsOf', ...objects);
  const document = await application.document();
  const after = await application.call(undefined, 'getStatsOf', ...objects);
  const answers = new Map(objects.map((object, i) => [object, [before[i], after[i]]]));

  assert.deepEqual(document.errors, []);
  for (const transport of transports) {
    const [[first], [last]] = answers.get(transport);
    assertBetween(first, byId(all(document, 'transports'), transport).stats, last, 'transport');
  }
  for (const [list, kind, type] of [[producers, 'producers', 'inbound-rtp'], [consumers, 'consumers', 'outbound-rtp']]) {
    for (const object of list) {
      const [first, last] = answers.get(object).map((streams) => streams.filter((stream) => stream.type === type));
      const { streams } = byId(all(document, kind), object);
      assert.equal(streams.length, first.length, 'as many streams');
      streams.forEach((stream, i) => assertBetween(first[i], stream, last[i], kind));
    }
  }
  for (const [object, kind] of [[dataProducer, 'data_producers'], [dataConsumer, 'data_consumers']]) {
    const [[first], [last]] = answers.get(object);
    assertBetween(first, byId(all(document, kind), object).stats, last, kind);
  }
  assert.equal(byId(all(document, 'data_producers'), dataProducer).stats.messagesReceived, 1);
  assert.equal(byId(all(document, 'data_consumers'), dataConsumer).stats.messagesSent, 1);
  assert.ok(all(document, 'consumers').every(({ streams }) => streams[0].byteCount > 0), 'media flow');
});

test('a document says what there is, in the schema of the exporter', async (t) => {
  const begun = Date.now();
  const { application, worker, router, transports, producers, consumers, alice, talk } = await conference(t);
  talk();
  await eventually('layers', async () => {
    const document = await application.document();
    return byId(all(document, 'consumers'), consumers[1]).current_layers !== undefined;
  });
  const document = await application.document();
  assert.equal(document.schema, 'mediasoup-stats/v1');
  assert.match(document.mediasoup_version, /^3\.\d+\.\d+$/);
  assert.equal(document.pid, application.pid);
  assert.ok(begun <= document.started_ms && document.started_ms <= document.timestamp_ms);
  assert.ok(document.collection_ms > 0);

  const [shown] = document.workers;
  assert.equal(shown.pid, worker.pid);
  assert.ok(shown.created_ms >= document.started_ms);
  assert.ok(shown.rss_bytes > 1024 * 1024, 'resident memory');
  assert.ok(shown.resource_usage.ru_maxrss > 1024);
  assert.equal(shown.routers[0].id, router.id);
  assert.deepEqual(all(document, 'transports').map(({ id, type }) => [id, type]), transports.map(({ id }) => [id, 'webrtc']));
  const { iceState, dtlsState } = all(document, 'transports')[0].stats;
  assert.deepEqual([iceState, dtlsState], ['completed', 'connected']);

  const [audio, video] = all(document, 'producers');
  assert.deepEqual([audio.kind, audio.type, audio.codec, audio.clock_rate], ['audio', 'simple', 'audio/opus', 48000]);
  assert.deepEqual([video.kind, video.type, video.codec, video.clock_rate], ['video', 'simulcast', 'video/VP8', 90000]);
  assert.deepEqual(video.streams.map(({ ssrc }) => ssrc), [3001, 3002, 3003]);
  assert.equal(video.paused, false);
  const consumer = byId(all(document, 'consumers'), consumers[1]);
  assert.deepEqual([consumer.producer_id, consumer.type, consumer.priority], [producers[1].id, 'simulcast', 1]);
  assert.equal(typeof consumer.score.producerScore, 'number');
  assert.deepEqual(consumer.streams.map(({ type }) => type), ['outbound-rtp'], 'what repeats the producer is left out');

  const { lifetime } = document;
  assert.deepEqual(
    [lifetime.workers_created, lifetime.routers_created, lifetime.transports_created, lifetime.producers_created, lifetime.consumers_created],
    [1, 1, 2, 2, 2],
  );
  assert.deepEqual([lifetime.data_producers_created, lifetime.data_consumers_created], [1, 1]);
  assert.deepEqual([lifetime.ice_state_completed, lifetime.dtls_state_connected, lifetime.dtls_state_failed], [2, 2, 0]);
  alice.stop();
});

test('what is paused is shown as paused, until it is resumed', async (t) => {
  const { application, producers, consumers } = await conference(t);
  const paused = async () => {
    const document = await application.document('counts');
    const { producer_paused: ofProducer, paused: own } = byId(all(document, 'consumers'), consumers[0]);
    return [byId(all(document, 'producers'), producers[0]).paused, ofProducer, own];
  };
  await application.call(producers[0], 'pause');
  await application.call(consumers[0], 'pause');
  // The consumer hears of its producer from the worker.
  await eventually('pause', async () => (await paused()).every((flag) => flag));
  await application.call(producers[0], 'resume');
  await application.call(consumers[0], 'resume');
  await eventually('resumption', async () => (await paused()).every((flag) => !flag));
});

test('what closes vanishes and is counted, and takes along what depends on it', async (t) => {
  const { application, transports, producers, consumers } = await conference(t);
  await application.call(consumers[0], 'close');
  const without = await application.document();
  assert.deepEqual(all(without, 'consumers').map(({ id }) => id), [consumers[1].id]);
  assert.equal(without.lifetime.consumers_closed, 1);

  await application.call(producers[1], 'close');
  const document = await eventually('end of the other consumer', async () => {
    const now = await application.document();
    return now.lifetime.consumers_closed === 2 && now;
  });
  assert.deepEqual([all(document, 'producers').length, all(document, 'consumers').length], [1, 0]);

  await application.call(transports[0], 'close');
  const last = await application.document();
  assert.deepEqual(all(last, 'transports').map(({ id }) => id), [transports[1].id]);
  assert.deepEqual([last.lifetime.transports_closed, last.lifetime.producers_closed, last.lifetime.data_producers_closed], [1, 2, 1]);
  assert.deepEqual(last.errors, []);
});

test('counters of a stream never fall, and a producer that closes takes its streams along', async (t) => {
  const { application, producers, alice, talk } = await conference(t);
  talk();
  const bytes = new Map();
  let risen = 0;
  let closed = false;
  for (let i = 0; i < 6; i++) {
    const document = await application.document('producers');
    const streams = all(document, 'producers').flatMap((producer) =>
      producer.streams.map(({ ssrc, byteCount }) => [`${producer.id} ${ssrc}`, byteCount]));
    for (const [key, count] of streams) {
      assert.ok(count >= (bytes.get(key) ?? 0), `${key} fell`);
      risen += count - (bytes.get(key) ?? count);
      bytes.set(key, count);
    }
    if (closed) assert.deepEqual(streams.length, 1, 'the streams of the closed producer are gone');
    if (i === 2) {
      await application.call(producers[1], 'close');
      closed = true;
    }
  }
  assert.equal(bytes.size, 4);
  assert.ok(risen > 1000, `${risen} bytes`);
  alice.stop();
});

test('a worker that is killed is counted as dead, and its objects as closed', async (t) => {
  const { application, worker } = await conference(t);
  process.kill(worker.pid, 'SIGKILL');
  const document = await eventually('death', async () => {
    const now = await application.document();
    return now.lifetime.workers_died === 1 && now;
  });
  assert.deepEqual(document.workers, []);
  const { workers_closed, routers_closed, transports_closed, producers_closed, consumers_closed } = document.lifetime;
  assert.deepEqual([workers_closed, routers_closed, transports_closed, producers_closed, consumers_closed], [1, 1, 2, 2, 2]);

  const next = await application.call(undefined, 'createWorker', {});
  const again = await application.document();
  assert.deepEqual(again.workers.map(({ pid }) => pid), [next.pid]);
  assert.deepEqual([again.lifetime.workers_created, again.lifetime.workers_died], [2, 1]);
});

test('every type of transport is known with every detail', async (t) => {
  const { application, router } = await server(t);
  const listenIp = '127.0.0.1';
  await application.call(router, 'createWebRtcTransport', { listenIps: [{ ip: listenIp }] });
  await application.call(router, 'createPlainTransport', { listenIp });
  await application.call(router, 'createPipeTransport', { listenIp });
  await application.call(router, 'createDirectTransport', {});
  for (const detail of ['counts', 'producers', 'all']) {
    const document = await application.document(detail);
    assert.deepEqual(all(document, 'transports').map(({ type }) => type), ['webrtc', 'plain', 'pipe', 'direct'], detail);
    assert.equal(all(document, 'transports')[0].stats.iceState, 'new', detail);
  }
});

test('a piped producer is shown on both routers, although its id is the same', async (t) => {
  const { application, worker, router, producers } = await conference(t);
  const other = await application.call(worker, 'createRouter', { mediaCodecs: CODECS });
  await application.call(undefined, 'pipe', router, { producerId: producers[0].id, router: other });
  const document = await application.document();
  const places = document.workers[0].routers.map(({ transports }) =>
    transports.flatMap((transport) => transport.producers).filter(({ id }) => id === producers[0].id).length);
  assert.deepEqual(places, [1, 1]);
  assert.ok(all(document, 'consumers').some(({ type }) => type === 'pipe'));
});

test('each detail asks the workers for no more than it shows', async (t) => {
  const { application, transports, producers, consumers, dataProducer, dataConsumer } = await conference(t);
  const groups = { transports, producers, consumers, data: [dataProducer], received: [dataConsumer] };
  await application.call(undefined, 'countRequests', Object.values(groups).flat());
  const expected = { counts: 0, producers: transports.length + producers.length + 1, all: Object.values(groups).flat().length };
  for (const [detail, number] of Object.entries(expected)) {
    const { begun: before } = await application.call(undefined, 'requests');
    const document = await application.document(detail);
    const { begun } = await application.call(undefined, 'requests');
    assert.equal(begun - before, number, detail);
    assert.equal(all(document, 'consumers').length, consumers.length, `${detail} shows all consumers`);
    assert.equal(all(document, 'consumers').some(({ streams }) => streams !== undefined), detail === 'all', detail);
    assert.equal(all(document, 'producers').every(({ streams }) => streams !== undefined), detail !== 'counts', detail);
  }
});

test('a worker never has more than sixteen requests of the agent at a time', async (t) => {
  const { application, router } = await server(t);
  const { transports, producers, consumers } = await crowd({ application, router }, { transports: 20, consumersEach: 2 });
  await application.call(undefined, 'countRequests', [...transports, ...producers, ...consumers]);
  await Promise.all(['all', 'producers', 'counts', 'all'].map((detail) => application.document(detail)));
  const { begun, most } = await application.call(undefined, 'requests');
  assert.ok(begun >= 80 + 40, `${begun} requests`);
  assert.ok(most <= 16, `${most} at a time`);
});

test('all workers together never have more than thirty-two', async (t) => {
  const { application, router: first } = await server(t);
  const routers = [first];
  while (routers.length < 4) {
    const worker = await application.call(undefined, 'createWorker', {});
    routers.push(await application.call(worker, 'createRouter', { mediaCodecs: CODECS }));
  }
  const objects = [];
  for (const router of routers) {
    const { transports, producers, consumers } = await crowd({ application, router }, { transports: 15, consumersEach: 1 });
    objects.push(...transports, ...producers, ...consumers);
  }
  await application.call(undefined, 'countRequests', objects);
  await application.document();
  const { begun, most } = await application.call(undefined, 'requests');
  assert.equal(begun, objects.length);
  assert.ok(most > 16 && most <= 32, `${most} at a time`);
});

test('the application has its turn also while the agent surveys and writes', async (t) => {
  const { application, worker, router } = await server(t);
  await application.call(undefined, 'createDirectTransports', router, 10_000);
  await application.call(undefined, 'noteTurns', AGENT, worker);
  const { timestamp_ms: begunMs, collection_ms: tookMs } = await application.document('counts');
  const endedMs = Math.floor(begunMs + tookMs);
  const { surveying, writing } = await application.call(undefined, 'turnsIn', { begunMs, endedMs });
  assert.ok(surveying > 1 && writing > 1, `${surveying} and ${writing} turns within ${tookMs} ms`);
});
