// A WebRTC client: ICE, DTLS, SRTP and SCTP of werift, below its peer connection, so that there is no SDP. Media are packets of
// any bytes; mediasoup forwards them without looking into them.

import { createRequire } from 'node:module';
import path from 'node:path';

import { INSTALLED } from './application.mjs';

const require = createRequire(path.join(INSTALLED, 'here'));
const werift = require('werift');

export const CODECS = [
  { kind: 'audio', mimeType: 'audio/opus', clockRate: 48000, channels: 2 },
  { kind: 'video', mimeType: 'video/VP8', clockRate: 90000 },
];
const OPUS = { mimeType: 'audio/opus', payloadType: 100, clockRate: 48000, channels: 2 };
const VP8 = { mimeType: 'video/VP8', payloadType: 101, clockRate: 90000 };
export const AUDIO = { kind: 'audio', rtpParameters: { codecs: [OPUS], encodings: [{ ssrc: 1000 }], rtcp: { cname: 'audio' } } };
export const VIDEO = { kind: 'video', rtpParameters: { codecs: [VP8], encodings: [{ ssrc: 2000 }], rtcp: { cname: 'video' } } };
export const SIMULCAST = {
  kind: 'video',
  rtpParameters: { codecs: [VP8], encodings: [{ ssrc: 3001 }, { ssrc: 3002 }, { ssrc: 3003 }], rtcp: { cname: 'simulcast' } },
};

const SPEECH = Buffer.alloc(80, 0x55);

/** A key frame of VP8, as far as an SFU reads it: a descriptor with picture number and temporal layer 0, and the frame's first byte. */
function keyFrame(n) {
  const descriptor = [0x90, 0xe0, 0x80 | ((n >> 8) & 0x7f), n & 0xff, n & 0xff, 0x00];
  return Buffer.concat([Buffer.from(descriptor), Buffer.alloc(200, 0x20)]);
}

/** A certificate that has signed itself. */
export async function certificate() {
  // The method keeps what it made with its class; another class has none yet.
  const { certPem: cert, privateKey: key } = await werift.RTCDtlsTransport.SetupCertificate.call(class {});
  return { cert, key };
}

/** One peer on one transport. */
export class Client {
  /** Connects to a transport of the application, completely. */
  static async connect(t, application, transport) {
    const client = new Client(await werift.RTCDtlsTransport.SetupCertificate());
    t.after(() => client.close());
    await client.gather(transport);
    const { fingerprints } = client.dtls.localParameters;
    const shown = fingerprints.map(({ algorithm, value }) => ({ algorithm, value }));
    await application.call(transport, 'connect', { dtlsParameters: { role: 'client', fingerprints: shown } });
    await client.ice.start();
    client.dtls.role = 'client';
    await client.dtls.start();
    return client;
  }

  constructor(certificate) {
    const onlyHere = { useIpv4: true, useIpv6: false, additionalHostAddresses: ['127.0.0.1'], stunServer: undefined };
    const gatherer = new werift.RTCIceGatherer(onlyHere);
    this.ice = new werift.RTCIceTransport(gatherer);
    this.dtls = new werift.RTCDtlsTransport({}, this.ice, certificate, [1]);
    this.sequence = new Map();
    this.timers = new Set();
    this.received = 0;
    this.dtls.onRtp.subscribe((packet) => void (this.received += packet.serialize().length));
  }

  async gather({ iceParameters, iceCandidates, dtlsParameters }) {
    this.ice.connection.iceControlling = true;
    await this.ice.gather();
    this.ice.setRemoteParams(iceParameters);
    for (const { foundation, ip, port, priority, protocol, type } of iceCandidates) {
      await this.ice.addRemoteCandidate(new werift.IceCandidate(1, foundation, ip, port, priority, protocol, type));
    }
    await this.ice.addRemoteCandidate(undefined);
    this.dtls.setRemoteParams({ role: 'server', fingerprints: dtlsParameters.fingerprints });
  }

  /** Sends one packet of a stream. */
  async send(kind, ssrc) {
    const n = (this.sequence.get(ssrc) ?? 0) + 1;
    this.sequence.set(ssrc, n);
    const [payloadType, step, payload] = kind === 'audio' ? [100, 960, SPEECH] : [101, 3000, keyFrame(n)];
    const timestamp = (n * step) >>> 0;
    const header = new werift.RtpHeader({ version: 2, payloadType, ssrc, sequenceNumber: n & 0xffff, timestamp, marker: true });
    await this.dtls.sendRtp(payload, header);
  }

  /** Sends on streams until `stop`. */
  stream(kind, ...ssrcs) {
    const timer = setInterval(() => ssrcs.forEach((ssrc) => void this.send(kind, ssrc)), 20);
    this.timers.add(timer);
  }

  stop() {
    this.timers.forEach(clearInterval);
    this.timers.clear();
  }

  /** Opens the data channel of stream 1. */
  async dataChannel({ sctpParameters }, label) {
    this.sctp = new werift.RTCSctpTransport();
    this.sctp.setDtlsTransport(this.dtls);
    const parameters = new werift.RTCDataChannelParameters({ id: 1, negotiated: true, ordered: true, label });
    const channel = new werift.RTCDataChannel(this.sctp, parameters);
    await this.sctp.start(sctpParameters.port);
    await this.sctp.sctp.stateChanged.connected.asPromise();
    return channel;
  }

  async close() {
    this.stop();
    await this.sctp?.stop();
    await this.dtls.stop();
    await this.ice.stop();
  }
}
