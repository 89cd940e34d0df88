'use strict';
// An application with one worker and as many transports, producers and consumers as it is told, that says what it costs itself.

const { createSocket } = require('dgram');
const { performance } = require('perf_hooks');
const mediasoup = require('mediasoup');

const OPUS = { mimeType: 'audio/opus', payloadType: 100, clockRate: 48000, channels: 2 };
/** Each producer sends so many packets a second: enough for statistics of all of them, and little work for the worker. */
const PACKETS_PER_SECOND = 5;

/** How late a timer of one millisecond is, again and again while somebody watches. (Node's own histogram also counts its pauses.) */
const watching = { timer: undefined, late: [] };

function watch() {
  const expected = performance.now() + 1;
  watching.timer = setTimeout(() => {
    watching.late.push(performance.now() - expected);
    watch();
  }, 1);
}

async function fill({ transports, consumers }) {
  const worker = await mediasoup.createWorker({ logLevel: 'error' });
  const router = await worker.createRouter({ mediaCodecs: [{ kind: 'audio', ...OPUS }] });
  heap.empty = usedHeap();
  const created = [];
  const producers = [];
  for (let i = 0; i < transports; i++) {
    created.push(await router.createPlainTransport({ listenIp: '127.0.0.1', comedia: true }));
    const rtpParameters = { codecs: [OPUS], encodings: [{ ssrc: 1000 + i }] };
    producers.push(await created[i].produce({ kind: 'audio', rtpParameters }));
  }
  for (let i = 0; i < consumers; i++) {
    const { id: producerId } = producers[(i + 1) % producers.length];
    await created[i % created.length].consume({ producerId, rtpCapabilities: router.rtpCapabilities });
  }
  heap.full = usedHeap();
  send(created.map(({ tuple }) => tuple.localPort));
}

/** Media from here, too: it is a cost that all measurements have in common. */
function send(ports) {
  const sockets = ports.map(() => createSocket('udp4').on('message', () => {}).unref());
  let n = 0;
  setInterval(() => {
    n++;
    ports.forEach((port, i) => {
      const packet = Buffer.alloc(92);
      packet.writeUInt16BE(0x8064, 0);
      packet.writeUInt16BE(n & 0xffff, 2);
      packet.writeUInt32BE((n * 960) >>> 0, 4);
      packet.writeUInt32BE(1000 + i, 8);
      sockets[i].send(packet, port, '127.0.0.1');
    });
  }, 1000 / PACKETS_PER_SECOND);
}

const heap = {};

function usedHeap() {
  for (let i = 0; i < 3; i++) global.gc();
  return process.memoryUsage().heapUsed;
}

const COMMANDS = {
  fill,
  heap: () => heap,
  cpu() {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  },
  watch,
  unwatch: () => clearTimeout(watching.timer),
  /** Of what was watched since the last time. */
  late: () => watching.late.splice(0),
};

process.on('message', async ({ command, argument }) => {
  process.send({ result: await COMMANDS[command](argument) });
});
