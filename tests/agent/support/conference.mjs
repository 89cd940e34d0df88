// A conference of two: what an application makes of mediasoup, and two clients that send real media.

import { Application } from './application.mjs';
import { AUDIO, Client, CODECS, SIMULCAST } from './client.mjs';

const LISTEN = { listenIps: [{ ip: '127.0.0.1' }], enableSctp: true };

/** An application with a worker and a router. */
export async function server(t, options) {
  const application = Application.start(t, options);
  const worker = await application.call(undefined, 'createWorker', { logLevel: 'error' });
  const router = await application.call(worker, 'createRouter', { mediaCodecs: CODECS, appData: { roomId: 'room-42', secret: 'x' } });
  return { application, worker, router };
}

/** Alice sends audio, simulcast video and data; Bob receives them. */
export async function conference(t, options) {
  return meet(t, await server(t, options));
}

/** The same on a server that there is. */
export async function meet(t, { application, worker, router }) {
  const call = (...args) => application.call(...args);
  const transports = [];
  const clients = [];
  for (const peerId of ['alice', 'bob']) {
    const transport = await call(router, 'createWebRtcTransport', { ...LISTEN, appData: { peerId, name: 'Somebody' } });
    transports.push(transport);
    clients.push(await Client.connect(t, application, transport));
  }
  const [alice, bob] = clients;
  const [sending, receiving] = transports;
  const producers = [];
  const consumers = [];
  for (const media of [AUDIO, SIMULCAST]) {
    const producer = await call(sending, 'produce', media);
    producers.push(producer);
    consumers.push(await call(receiving, 'consume', { producerId: producer.id, rtpCapabilities: router.rtpCapabilities }));
  }
  const channel = await alice.dataChannel(sending, 'chat');
  await bob.dataChannel(receiving, 'chat');
  const sctpStreamParameters = { streamId: 1, ordered: true };
  const dataProducer = await call(sending, 'produceData', { sctpStreamParameters, label: 'chat with Bob', protocol: 'private' });
  const dataConsumer = await call(receiving, 'consumeData', { dataProducerId: dataProducer.id });
  const talk = () => {
    alice.stream('audio', 1000);
    alice.stream('video', 3001, 3002, 3003);
    channel.send(Buffer.from('hello'));
  };
  return { application, worker, router, transports, producers, consumers, dataProducer, dataConsumer, alice, bob, channel, talk };
}

/** Objects that no media flow through: as many transports as are wanted, with or without a producer and consumers on each. */
export async function crowd({ application, router }, { transports: n, consumersEach = 0 }) {
  const transports = [];
  const producers = [];
  const consumers = [];
  for (let i = 0; i < n; i++) {
    const transport = await application.call(router, 'createDirectTransport', {});
    transports.push(transport);
    const rtpParameters = { ...AUDIO.rtpParameters, encodings: [{ ssrc: 10_000 + i }] };
    if (consumersEach > 0) producers.push(await application.call(transport, 'produce', { kind: 'audio', rtpParameters }));
  }
  for (const transport of transports) {
    for (let i = 0; i < consumersEach; i++) {
      const { id: producerId } = producers[i % producers.length];
      consumers.push(await application.call(transport, 'consume', { producerId, rtpCapabilities: router.rtpCapabilities }));
    }
  }
  return { transports, producers, consumers };
}
