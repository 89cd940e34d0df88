// What leaves the process of an application: nothing of its own and nothing of its users that was not allowed.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { all } from './support/application.mjs';
import { conference, crowd, server } from './support/conference.mjs';

const settings = (list) => {
  const pairs = Object.entries(list).map(([name, value]) => [`SCRAPETARGET_AGENT_${name}`, value]);
  return { environment: Object.fromEntries(pairs) };
};

/** The part of the client's address in the document that is shown for one transport. */
const tuple = (document) => all(document, 'transports')[0].stats.iceSelectedTuple;

test('without settings nothing of the application and of its clients is shown', async (t) => {
  const { application, transports } = await conference(t);
  const document = await application.document();
  const text = JSON.stringify(document);
  for (const name of ['"app"', 'room-42', 'alice', 'Somebody', 'remoteIp', 'remotePort', 'chat with Bob', '"private"']) {
    assert.ok(!text.includes(name), name);
  }
  for (const { iceParameters, dtlsParameters } of transports) {
    const secrets = [iceParameters.password, iceParameters.usernameFragment, ...dtlsParameters.fingerprints.map(({ value }) => value)];
    secrets.forEach((secret) => assert.ok(!text.includes(secret)));
  }
  assert.deepEqual(Object.keys(tuple(document)).sort().filter((key) => key !== 'localAddress'), ['localIp', 'localPort', 'protocol']);
});

test('what a client or a later mediasoup may call things is not shown', async (t) => {
  const { application, router } = await server(t, settings({ ADDRESSES: 'plain' }));
  const { transports: [transport], producers: [producer] } = await crowd({ application, router }, { transports: 1, consumersEach: 1 });
  const tuple = { localIp: '10.0.0.1', protocol: 'udp', remoteIp: '10.0.0.2', remotePort: 5 };
  const more = { tuples: [tuple], remoteIp: '10.0.0.3', selected: { ip: '10.0.0.4' } };
  const transportStats = { tuple: { ...tuple, name: 'alice' }, bytesSent: 7, ...more };
  const streamStats = { rid: 'alice', cname: 'alice', ssrc: 5, mimeType: 'audio/opus', bitrateByLayer: { '0.0': 9, name: 'alice' } };
  await application.call(undefined, 'pretendStats', transport, [transportStats]);
  await application.call(undefined, 'pretendStats', producer, [streamStats]);
  const document = await application.document();
  assert.deepEqual(all(document, 'transports')[0].stats, { tuple, bytesSent: 7 });
  assert.deepEqual(all(document, 'consumers')[0].score, { score: 10, producerScore: 0, producerScores: [0] });
  assert.deepEqual(all(document, 'producers')[0].streams, [{ ssrc: 5, mimeType: 'audio/opus', bitrateByLayer: { '0.0': 9 } }]);
});

test('of what the application attached, the listed properties are shown, if they are plain values', async (t) => {
  const { application, router } = await server(t, settings({ APP_DATA: 'roomId, number,flag,object,getter,long,toString,missing' }));
  const transport = await application.call(router, 'createDirectTransport', {
    appData: { roomId: 'r', number: 5, flag: false, object: { a: 1 }, long: 'x'.repeat(1000), secret: 's' },
  });
  await application.call(undefined, 'addGetter', transport, 'getter');
  const document = await application.document();
  assert.deepEqual(all(document, 'transports')[0].app, { roomId: 'r', number: 5, flag: false, long: 'x'.repeat(256) });
  assert.deepEqual(all(document, 'routers')[0].app, { roomId: 'room-42' });
  assert.deepEqual(document.errors, []);
});

test('addresses of clients are shortened, hashed or kept, as it was set', async (t) => {
  const shown = {};
  for (const mode of ['deidentify', 'hash', 'plain', 'Plain']) {
    const { application, bob } = await conference(t, settings({ ADDRESSES: mode }));
    const { remoteIp, remotePort, localPort } = tuple(await application.document());
    assert.ok(remotePort > 0 && localPort > 0, mode);
    shown[mode] = remoteIp;
    await bob.close();
  }
  assert.equal(shown.plain, '127.0.0.1');
  assert.equal(shown.Plain, '127.0.0.1');
  assert.equal(shown.deidentify, 'xx.xx.0.1');
  assert.match(shown.hash, /^[0-9a-f]{16}$/);
});

test('an address is shortened whatever its form, and equal ones have equal hashes', async (t) => {
  const addresses = [
    ['203.0.113.7', 'xx.xx.113.7'],
    ['::ffff:203.0.113.7', 'xx.xx.113.7'],
    ['2001:db8::1:00ab', 'xx::ab'],
    ['2001:db8::', 'xx::0'],
    ['fe80::1%eth0', 'xx::1'],
    ['FE80::AB', 'xx::ab'],
  ];
  const fake = async (mode) => {
    const { application, router } = await server(t, settings({ ADDRESSES: mode }));
    const transports = [];
    for (const [remoteIp] of addresses) {
      const transport = await application.call(router, 'createDirectTransport', {});
      await application.call(undefined, 'pretendStats', transport, [{ tuple: { localIp: '10.0.0.1', remoteIp, remotePort: 5 } }]);
      transports.push(transport);
    }
    return all(await application.document(), 'transports').map(({ stats }) => stats.tuple.remoteIp);
  };
  assert.deepEqual(await fake('deidentify'), addresses.map(([, expected]) => expected));
  const [first, second] = [await fake('hash'), await fake('hash')];
  assert.equal(first[0], first[1], 'the same address in two forms');
  assert.equal(new Set(first).size, addresses.length - 1);
  assert.notEqual(first[0], second[0], 'another process, another key');
});

test('both addresses of the client of a plain transport are as it was set', async (t) => {
  const remoteIp = '127.0.0.9';
  for (const [mode, expected] of [
    ['drop', undefined],
    ['deidentify', /^xx\.xx\.0\.9$/],
    ['hash', /^[0-9a-f]{16}$/],
    ['plain', /^127\.0\.0\.9$/],
  ]) {
    const { application, router } = await server(t, settings({ ADDRESSES: mode }));
    const transport = await application.call(router, 'createPlainTransport', { listenIp: '127.0.0.1', rtcpMux: false });
    await application.call(transport, 'connect', { ip: remoteIp, port: 5004, rtcpPort: 5005 });
    const document = await application.document();
    const { stats } = all(document, 'transports')[0];
    for (const [key, port] of [['tuple', 5004], ['rtcpTuple', 5005]]) {
      const { localPort, remotePort, remoteIp: shown } = stats[key];
      assert.ok(localPort > 0, `${mode}: ${key}`);
      assert.equal(remotePort, expected && port, `${mode}: ${key}`);
      if (expected === undefined) assert.equal(shown, undefined, `${mode}: ${key}`);
      else assert.match(shown, expected, `${mode}: ${key}`);
    }
    assert.equal(JSON.stringify(document).includes(remoteIp), mode === 'plain', `${mode}: nowhere else`);
  }
});
