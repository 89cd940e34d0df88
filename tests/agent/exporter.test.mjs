// What the exporter shows of an agent, compared with what the application itself is told by mediasoup, while real media flow.

import assert from 'node:assert/strict';
import http from 'node:http';
import { test } from 'node:test';

import { all, Application, atRest, eventually, get } from './support/application.mjs';
import { AUDIO } from './support/client.mjs';
import { conference, meet, server } from './support/conference.mjs';
import { Exporter, series, target } from './support/exporter.mjs';

/** A poll at each scrape, so that there is none between two that the test has seen. */
const AT_ONCE = { interval: '1m', timeout: '10s', maxAge: '0s' };
const EVERYTHING = { perObject: ['Transports', 'Producers', 'Consumers'] };

/** The counters of a stream as mediasoup names them, and as a total of all streams is named, and one of a single stream. */
const COUNTERS = (verb) => [
  ['byteCount', `${verb}_bytes_total`],
  ['packetCount', `${verb}_packets_total`],
  ['packetsDiscarded', 'discarded_packets_total'],
  ['packetsRetransmitted', 'retransmitted_packets_total'],
  ['packetsRepaired', 'repaired_packets_total'],
  ['nackCount', 'nacks_total'],
  ['nackPacketCount', 'nacked_packets_total'],
  ['pliCount', 'plis_total'],
  ['firCount', 'firs_total'],
];
/** Sums of fractions depend on their order. */
const ROUNDING = 1e-9;
const BYTES = [
  ['bytesReceived', 'received', 'all'],
  ['bytesSent', 'sent', 'all'],
  ['rtpBytesReceived', 'received', 'rtp'],
  ['rtpBytesSent', 'sent', 'rtp'],
  ['rtxBytesReceived', 'received', 'rtx'],
  ['rtxBytesSent', 'sent', 'rtx'],
  ['probationBytesSent', 'sent', 'probation'],
];

/** One reading by the application: what its objects say of themselves. */
async function reading({ application, worker, transports, producers, consumers }) {
  const usage = await application.call(worker, 'getResourceUsage');
  const stats = await application.call(undefined, 'getStatsOf', ...transports, ...producers, ...consumers);
  const next = (list, of) => list.map((object) => ({ object, stats: of(stats.shift()) }));
  return {
    usage,
    transports: next(transports, ([first]) => first),
    producers: next(producers, (streams) => streams.filter(({ type }) => type === 'inbound-rtp')),
    consumers: next(consumers, (streams) => streams.filter(({ type }) => type === 'outbound-rtp')),
  };
}

const sum = (values) => values.reduce((a, b) => a + b, 0);
const shortName = (mimeType) => mimeType.split('/')[1];

/** Every sample that this reading stands for. */
function samples({ usage, transports, producers, consumers }, { worker, router, places: transportOf }) {
  const found = new Map();
  const put = (name, labels, value) => {
    if (value !== undefined && value !== null) found.set(series(name, labels), value);
  };
  const pid = worker.pid;
  const milliseconds = (value) => value / 1000;
  put('mediasoup_worker_cpu_seconds_total', { pid, mode: 'user' }, milliseconds(usage.ru_utime));
  put('mediasoup_worker_cpu_seconds_total', { pid, mode: 'system' }, milliseconds(usage.ru_stime));
  put('mediasoup_worker_max_resident_memory_bytes', { pid }, usage.ru_maxrss * 1024);
  put('mediasoup_worker_page_faults_total', { pid, kind: 'minor' }, usage.ru_minflt);
  put('mediasoup_worker_page_faults_total', { pid, kind: 'major' }, usage.ru_majflt);
  put('mediasoup_worker_context_switches_total', { pid, kind: 'voluntary' }, usage.ru_nvcsw);
  put('mediasoup_worker_context_switches_total', { pid, kind: 'involuntary' }, usage.ru_nivcsw);

  for (const [field, direction, payload] of BYTES) {
    put('mediasoup_transport_bytes_total', { type: 'webrtc', direction, payload }, sum(transports.map(({ stats }) => stats[field])));
  }
  for (const { object, stats } of transports) {
    const labels = { pid, router_id: router.id, transport_id: object.id, type: 'webrtc' };
    for (const [field, name] of [
      ['availableOutgoingBitrate', 'available_outgoing'],
      ['availableIncomingBitrate', 'available_incoming'],
      ['maxIncomingBitrate', 'max_incoming'],
      ['maxOutgoingBitrate', 'max_outgoing'],
    ]) {
      if (stats[field] !== undefined) put(`mediasoup_transport_${name}_bytes_per_second`, labels, stats[field] / 8);
    }
    put('mediasoup_transport_rtp_loss_ratio', { ...labels, direction: 'received' }, stats.rtpPacketLossReceived);
    put('mediasoup_transport_rtp_loss_ratio', { ...labels, direction: 'sent' }, stats.rtpPacketLossSent);
  }

  for (const [side, verb, objects] of [['producer', 'received', producers], ['consumer', 'sent', consumers]]) {
    const scores = new Map();
    const roundTrips = new Map();
    for (const { object, stats } of objects) {
      for (const stream of stats) {
        const codec = shortName(stream.mimeType);
        const total = { kind: stream.kind, codec };
        for (const [field, name] of COUNTERS(verb)) {
          const key = series(`mediasoup_${side}s_${name}`, total);
          found.set(key, (found.get(key) ?? 0) + stream[field]);
        }
        const lost = series(`mediasoup_${side}s_lost_packets_total`, total);
        found.set(lost, (found.get(lost) ?? 0) + Math.max(stream.packetsLost, 0));
        const forKind = scores.get(stream.kind) ?? new Array(11).fill(0);
        forKind[stream.score]++;
        scores.set(stream.kind, forKind);
        if (stream.roundTripTime > 0) roundTrips.set(stream.kind, [...(roundTrips.get(stream.kind) ?? []), stream.roundTripTime]);

        const ids = side === 'producer' ? { producer_id: object.id } : { producer_id: object.producerId, consumer_id: object.id };
        const place = { pid, router_id: router.id, transport_id: transportOf.get(object.id) };
        const labels = { ...place, ...ids, kind: stream.kind, codec, ssrc: stream.ssrc };
        const prefix = `mediasoup_${side}_stream_`;
        for (const [field, name] of COUNTERS(verb)) put(prefix + name, labels, stream[field]);
        put(`${prefix}rtx_discarded_packets_total`, labels, stream.rtxPacketsDiscarded ?? 0);
        put(`${prefix}lost_packets`, labels, Math.max(stream.packetsLost, 0));
        put(`${prefix}fraction_lost_ratio`, labels, stream.fractionLost / 256);
        put(`${prefix}score`, labels, stream.score);
        if (stream.roundTripTime > 0) put(`${prefix}round_trip_time_seconds`, labels, stream.roundTripTime / 1000);
      }
    }
    for (const [kind, counts] of scores) {
      counts.forEach((count, score) => put(`mediasoup_${side}s_score`, { kind, score }, count));
    }
    if (side === 'consumer') {
      for (const [kind, values] of roundTrips) {
        values.sort((a, b) => a - b);
        for (const q of ['0.5', '0.9', '0.99', '1']) {
          const value = values[Math.ceil(values.length * Number(q)) - 1];
          put('mediasoup_consumers_round_trip_time_seconds', { kind, q }, value / 1000);
        }
      }
    }
  }
  return found;
}

/** The samples that follow from what the test has made, and from what is known of it without statistics. */
function certain({ worker }, document) {
  const kinds = { webrtc: 2, plain: 0, pipe: 0, direct: 0 };
  const one = (...labels) => ['audio simple false', 'video simulcast false'].includes(labels.join(' ')) ? 1 : 0;
  const created = { worker: 1, router: 1, transport: 2, producer: 2, consumer: 2, data_producer: 1, data_consumer: 1 };
  const list = [
    ['mediasoup_up', {}, 1],
    ['mediasoup_workers', {}, 1],
    ['mediasoup_routers', { pid: worker.pid }, 1],
    ['mediasoup_worker_deaths_total', {}, 0],
    ['mediasoup_build_info', { version: document.mediasoup_version }, 1],
    ['mediasoup_agent_start_time_seconds', {}, document.started_ms / 1000],
    ['mediasoup_worker_start_time_seconds', { pid: worker.pid }, document.workers[0].created_ms / 1000],
  ];
  for (const [type, count] of Object.entries(kinds)) list.push(['mediasoup_transports', { type }, count]);
  for (const ice_state of ['new', 'connected', 'completed', 'disconnected', 'closed']) {
    for (const dtls_state of ['new', 'connecting', 'connected', 'failed', 'closed']) {
      const count = ice_state === 'completed' && dtls_state === 'connected' ? 2 : 0;
      list.push(['mediasoup_webrtc_transports', { ice_state, dtls_state }, count]);
    }
  }
  for (const kind of ['audio', 'video']) {
    for (const paused of ['false', 'true']) {
      for (const type of ['simple', 'simulcast', 'svc', 'pipe']) {
        list.push(['mediasoup_consumers', { kind, type, paused }, one(kind, type, paused)]);
        if (type !== 'pipe') list.push(['mediasoup_producers', { kind, type, paused }, one(kind, type, paused)]);
      }
    }
  }
  for (const [type, count] of [['sctp', 1], ['direct', 0]]) {
    list.push(['mediasoup_data_producers', { type }, count], ['mediasoup_data_consumers', { type }, count]);
  }
  for (const [object, count] of Object.entries(created)) {
    list.push(['mediasoup_objects_created_total', { object }, count], ['mediasoup_objects_closed_total', { object }, 0]);
    list.push(['mediasoup_snapshot_object_errors', { object }, 0]);
  }
  list.push(['mediasoup_snapshot_object_errors', { object: 'rooms' }, 0]);
  for (const state of ['connected', 'completed', 'disconnected', 'closed']) {
    const { [`ice_state_${state}`]: changes = 0 } = document.lifetime;
    list.push(['mediasoup_ice_state_changes_total', { state }, changes]);
  }
  for (const state of ['connecting', 'connected', 'failed', 'closed']) {
    const { [`dtls_state_${state}`]: changes = 0 } = document.lifetime;
    list.push(['mediasoup_dtls_state_changes_total', { state }, changes]);
  }
  return list;
}

/** Where each producer and consumer is: producers on the first transport, consumers on the second. */
function places({ transports: [sending, receiving], producers, consumers }) {
  return new Map([
    ...producers.map(({ id }) => [id, sending.id]),
    ...consumers.map(({ id }) => [id, receiving.id]),
  ]);
}

test('every family has the value that the application reads at the same moment', async (t) => {
  const begun = await server(t);
  const url = (await begun.application.url()).replace(/stats$/, '');
  const exporter = await Exporter.start(t, target({ url, ...AT_ONCE, mediasoup: EVERYTHING }));
  // Totals begin with the first poll.
  await exporter.fresh();
  const room = await meet(t, begun);
  room.consumers.forEach((consumer, i) => Object.assign(consumer, { producerId: room.producers[i].id }));
  room.talk();
  await eventually('media at the other end', () => room.bob.received > 20_000);

  const context = { ...room, places: places(room) };
  const before = samples(await reading(room), context);
  const shown = await exporter.fresh();
  const after = samples(await reading(room), context);
  const document = await room.application.document();
  // What mediasoup estimates may come and go, and may go either way between two readings; what it counts may not.
  const isCounted = (name) => name.endsWith('_total') && !name.endsWith('lost_packets_total');

  const compared = new Set();
  for (const [key, first] of before) {
    const last = after.get(key);
    const name = key.replace(/\{.*/, '');
    const value = shown.values.get(key);
    compared.add(name);
    if (isCounted(name) || first === last) {
      assert.ok(first - ROUNDING <= value && value <= last + ROUNDING, `${key}: ${first} <= ${value} <= ${last}`);
    } else if (last !== undefined) {
      assert.ok(value >= 0, `${key} is shown`);
    }
  }
  for (const [name, labels, value] of certain(room, document)) {
    compared.add(name);
    assert.equal(shown.value(name, labels), value, series(name, labels));
  }

  // What only the agent, or only one version of mediasoup, can say.
  const { pid } = room.worker;
  const { rss_bytes: rss } = document.workers[0];
  const memory = shown.value('mediasoup_worker_resident_memory_bytes', { pid });
  assert.ok(memory > rss / 2 && memory < rss * 2, `${memory} is about ${rss}`);
  assert.ok(shown.value('mediasoup_snapshot_collection_seconds') < 5);
  const others = [
    'mediasoup_snapshot_collection_seconds',
    'mediasoup_snapshot_timestamp_seconds',
    'mediasoup_worker_resident_memory_bytes',
    // In the units of the RTP clock, which changes with every packet.
    'mediasoup_producer_stream_jitter_seconds',
    'mediasoup_consumer_stream_jitter_seconds',
    // Told by consumers, not by their statistics.
    'mediasoup_consumer_current_spatial_layer',
    'mediasoup_consumer_current_temporal_layer',
    'mediasoup_consumer_producer_score',
  ];
  const forgotten = shown.families.filter((name) => !compared.has(name) && !others.includes(name));
  assert.deepEqual(forgotten, [], 'every family is compared');
  const video = all(document, 'consumers').find(({ kind }) => kind === 'video');
  const labels = {
    pid, router_id: room.router.id, transport_id: room.transports[1].id, producer_id: video.producer_id, consumer_id: video.id,
    kind: 'video', codec: 'VP8',
  };
  assert.ok(shown.value('mediasoup_consumer_producer_score', labels) <= 10);
  assert.ok(shown.values.size > 200, `${shown.values.size} series`);
});

test('totals keep what closed streams had moved, to the byte, and go on with new ones', async (t) => {
  const begun = await server(t);
  const url = await begun.application.url();
  const exporter = await Exporter.start(t, target({ url, interval: '2s', timeout: '2s', mediasoup: EVERYTHING }));
  await exporter.fresh();
  const { application, router, transports, producers, consumers, alice, bob, talk } = await meet(t, begun);
  talk();
  await eventually('media at the other end', () => bob.received > 20_000);
  // Silence, so that the last poll before they close has seen all they moved.
  alice.stop();
  const moved = async (objects, type) => {
    const stats = (await application.call(undefined, 'getStatsOf', ...objects)).flat();
    return (kind) => sum(stats.filter((stream) => stream.type === type && stream.kind === kind).map(({ byteCount }) => byteCount));
  };
  const totals = (shown) => ['audio opus', 'video VP8'].flatMap((words) => {
    const [kind, codec] = words.split(' ');
    const names = ['mediasoup_producers_received_bytes_total', 'mediasoup_consumers_sent_bytes_total'];
    return names.map((name) => shown.value(name, { kind, codec }));
  });
  const stats = () => application.call(undefined, 'getStatsOf', ...producers, ...consumers);
  await atRest('what is under way', async () => (await stats()).flat().map(({ byteCount }) => byteCount));
  const [received, sent] = [await moved(producers, 'inbound-rtp'), await moved(consumers, 'outbound-rtp')];
  const expected = [received('audio'), sent('audio'), received('video'), sent('video')];
  assert.ok(expected.every((bytes) => bytes > 1000), `${expected} bytes`);
  const before = await exporter.fresh();
  assert.deepEqual(totals(before), expected);
  assert.ok([...before.values.keys()].some((key) => key.includes(producers[0].id)));

  await application.call(consumers[0], 'close');
  await application.call(producers[1], 'close');
  const after = await exporter.fresh();
  assert.deepEqual(totals(after), expected);
  for (const closed of [consumers[0], producers[1], consumers[1]]) {
    assert.deepEqual([...after.values.keys()].filter((key) => key.includes(closed.id)), [], 'series of what closed');
  }
  assert.equal(after.value('mediasoup_producers', { kind: 'video', type: 'simulcast', paused: 'false' }), 0);
  assert.equal(after.value('mediasoup_objects_closed_total', { object: 'consumer' }), 2);

  await application.call(producers[0], 'close');
  const rtpParameters = { ...AUDIO.rtpParameters, encodings: [{ ssrc: 4000 }], rtcp: { cname: 'again' } };
  const next = await application.call(transports[0], 'produce', { kind: 'audio', rtpParameters });
  const heard = await application.call(transports[1], 'consume', { producerId: next.id, rtpCapabilities: router.rtpCapabilities });
  const soFar = bob.received;
  alice.stream('audio', 4000);
  await eventually('media of the next stream', () => bob.received > soFar + 2000);
  alice.stop();
  await atRest('what is under way', async () => (await application.call(undefined, 'getStatsOf', next, heard)).flat().map(({ byteCount }) => byteCount));
  const [more, heardMore] = [await moved([next], 'inbound-rtp'), await moved([heard], 'outbound-rtp')];
  const last = await exporter.fresh();
  assert.deepEqual(totals(last), [expected[0] + more('audio'), expected[1] + heardMore('audio'), expected[2], expected[3]]);
});

test('what the agent leaves out is absent, and totals go on where they were when it is back', async (t) => {
  const room = await conference(t);
  const agent = await room.application.url();
  let detail = 'all';
  const front = http.createServer(async (request, response) => {
    const { status, body } = await get(`${agent}?detail=${detail}`);
    response.writeHead(status, { 'content-type': 'application/json' }).end(body);
  });
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve));
  t.after(() => front.close());
  const exporter = await Exporter.start(t, target({ url: `http://127.0.0.1:${front.address().port}/`, ...AT_ONCE, mediasoup: EVERYTHING }));
  await exporter.fresh();
  room.talk();
  await eventually('media at the other end', () => room.bob.received > 20_000);
  const whole = await exporter.fresh();
  const ofConsumers = /^mediasoup_(consumers_|consumer_stream_)/;
  const ofProducers = /^mediasoup_(producers_|producer_stream_|transport_)/;
  const without = (...patterns) => whole.families.filter((name) => !patterns.some((pattern) => pattern.test(name)));

  detail = 'producers';
  const some = await exporter.fresh();
  const momentary = (name) => !/round_trip_time|current_|jitter|available/.test(name);
  assert.deepEqual(some.families.filter(momentary), without(ofConsumers).filter(momentary));
  detail = 'counts';
  const few = await exporter.fresh();
  assert.deepEqual(few.families.filter(momentary), without(ofConsumers, ofProducers).filter(momentary));
  assert.equal(few.value('mediasoup_webrtc_transports', { ice_state: 'completed', dtls_state: 'connected' }), 2);

  detail = 'all';
  room.alice.stop();
  const again = await exporter.fresh();
  const counters = [...whole.values].filter(([key]) => /^mediasoup_(transport|producers|consumers)_\w+_total\{/.test(key));
  assert.ok(counters.length > 40);
  for (const [key, value] of counters) assert.ok(again.values.get(key) >= value, `${key} fell`);
  const sent = 'mediasoup_consumers_sent_bytes_total';
  const { consumers: [audio] } = await reading(room);
  assert.ok(again.value(sent, { kind: 'audio', codec: 'opus' }) <= audio.stats[0].byteCount, 'nothing is counted twice');
});

test('a type and a url are enough for an agent with its defaults', async (t) => {
  // An agent of somebody else on this port is waited for.
  const environment = { SCRAPETARGET_AGENT_PORT: undefined };
  const { application } = await server(t, { environment });
  assert.equal(await application.url(), 'http://127.0.0.1:9851/stats');
  const exporter = await Exporter.start(t, target({ url: 'http://127.0.0.1:9851/' }));
  const shown = await exporter.probe();
  assert.deepEqual(['probe_success', 'mediasoup_up', 'mediasoup_workers'].map((name) => shown.value(name)), [1, 1, 1]);
});

for (const [token, success, reason] of [['the-right-one', 1, undefined], ['a-wrong-one', 0, 'auth'], [undefined, 0, 'auth']]) {
  test(`the token ${token} ${success ? 'opens an agent that others can reach' : 'is refused as a matter of authentication'}`, async (t) => {
    const environment = { SCRAPETARGET_AGENT_HOST: '0.0.0.0', SCRAPETARGET_AGENT_TOKEN: 'the-right-one' };
    const { application } = await server(t, { environment });
    const url = (await application.url()).replace('0.0.0.0', '127.0.0.1');
    const authorization = { credentials: { name: 'mediasoup-agent', key: 'token' } };
    const metadata = { name: 'mediasoup-agent', namespace: 'webrtc' };
    const secret = { apiVersion: 'v1', kind: 'Secret', metadata, stringData: { token: `${token}\n` } };
    const exporter = await (token === undefined
      ? Exporter.start(t, target({ url }))
      : Exporter.start(t, secret, target({ url, authorization })));
    const shown = await exporter.probe();
    assert.deepEqual([shown.value('probe_success'), shown.value('mediasoup_up')], [success, success]);
    assert.equal(shown.value('probe_failure_info', { reason: 'auth' }), reason && 1);
    assert.equal(shown.value('mediasoup_workers'), success ? 1 : undefined);
  });
}
