'use strict';
// An application on mediasoup, as somebody has it who has never heard of the agent: one room, whose speaker three others listen to. When the
// worker that has the room dies, it opens in another.

const mediasoup = require('mediasoup');

const OPUS = { mimeType: 'audio/opus', clockRate: 48000, channels: 2 };
const LISTENERS = 3;
const PACKET_MS = 20;

/** A packet of RTP with a payload of any bytes: mediasoup forwards it without looking into it. */
function packet(n) {
  const header = Buffer.alloc(12);
  header.writeUInt8(0x80, 0);
  header.writeUInt8(100, 1);
  header.writeUInt16BE(n & 0xffff, 2);
  header.writeUInt32BE((n * 960) >>> 0, 4);
  header.writeUInt32BE(1000, 8);
  return Buffer.concat([header, Buffer.alloc(80, 0x55)]);
}

async function open() {
  const worker = await mediasoup.createWorker();
  const router = await worker.createRouter({ mediaCodecs: [{ kind: 'audio', ...OPUS }] });
  const speaker = await router.createDirectTransport();
  const rtpParameters = { codecs: [{ ...OPUS, payloadType: 100 }], encodings: [{ ssrc: 1000 }] };
  const producer = await speaker.produce({ kind: 'audio', rtpParameters });
  for (let i = 0; i < LISTENERS; i++) {
    const listener = await router.createDirectTransport();
    await listener.consume({ producerId: producer.id, rtpCapabilities: router.rtpCapabilities });
  }
  let n = 0;
  const speech = setInterval(() => producer.send(packet(n++)), PACKET_MS);
  worker.on('died', () => {
    clearInterval(speech);
    void open();
  });
  console.log('a room is open');
}

process.on('SIGTERM', () => process.exit(0));
void open();
