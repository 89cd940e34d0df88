// Applications that do unusual things to what the agent stands on: patched built-ins, mocks, emptied lists of listeners.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';

import { AGENT, all, Application, eventually, folder, soon } from './support/application.mjs';
import { server } from './support/conference.mjs';

const STAYS = 'setTimeout(() => {}, 600_000);';

function start(t, source, environment) {
  return Application.start(t, { script: 'server.js', files: { 'server.js': source }, environment });
}

test('rooms that are told by a promise, even one that fails, are an error in the document', async (t) => {
  const source = `
    const { setRooms } = require(${JSON.stringify(AGENT)});
    exports.tell = () => setRooms(async () => { throw new Error('no database'); });`;
  const { application } = await server(t, { files: { 'rooms.js': source } });
  await application.call(undefined, 'agent', './rooms.js', 'tell');
  const { rooms, errors } = await application.document();
  assert.equal(rooms, undefined);
  assert.deepEqual(errors.map(({ object, error, message }) => [object, error, message]),
    [['rooms', 'TypeError', 'rooms must be told at once, not by a promise']]);
  assert.equal(await application.call(undefined, 'idle'), undefined, 'it lives');
});

test('a secret in a pipe that nobody writes to is refused, and the application can end', async (t) => {
  const root = folder(t, { 'server.js': "require('mediasoup'); setTimeout(() => process.exit(3), 500);" });
  const pipe = path.join(root, 'token');
  execFileSync('mkfifo', [pipe]);
  const application = Application.start(t, { root, script: 'server.js', environment: { SCRAPETARGET_AGENT_TOKEN_FILE: pipe } });
  assert.deepEqual(await application.end(), { code: 3, signal: null });
  assert.match(application.errors, /cannot serve.*token is not a file of at most 1 MiB/);
});

test('a stub in the cache of modules stays what it is', async (t) => {
  const source = `
    const assert = require('assert');
    const observer = new (require('events'))();
    const stub = { version: 'stub', observer };
    require.cache[require.resolve('mediasoup')] = { loaded: true, exports: process.argv[2] === 'frozen' ? Object.freeze(stub) : stub };
    assert.equal(require('mediasoup').observer, observer);
    process.exit(0);`;
  for (const args of [['frozen'], []]) {
    const application = Application.start(t, { script: 'server.js', files: { 'server.js': source }, args });
    assert.deepEqual(await application.end(), { code: 0, signal: null }, application.errors);
  }
});

test('an application whose file system throws goes on', async (t) => {
  const application = start(t, `
    require('fs').write = () => { throw new Error('a mock'); };
    require('mediasoup');
    setTimeout(() => process.exit(3), 500);`);
  assert.deepEqual(await application.end(), { code: 3, signal: null }, application.errors);
});

test('patched clocks and JSON do not change the document', async (t) => {
  const application = start(t, `
    require('perf_hooks').performance.now = () => 0;
    JSON.stringify = () => 'patched';
    require('mediasoup').createWorker();
    ${STAYS}`);
  const document = await eventually('a document with the worker', async () => {
    const found = await application.document();
    return found.workers.length === 1 && found;
  });
  assert.ok(document.collection_ms > 0);
});

test('an object whose listeners were all removed is not listed any more once it is closed', async (t) => {
  const application = start(t, `
    (async () => {
      const worker = await require('mediasoup').createWorker();
      const router = await worker.createRouter({ mediaCodecs: [] });
      const [transport] = [await router.createDirectTransport(), await router.createDirectTransport()];
      transport.observer.removeAllListeners();
      transport.close();
    })();
    ${STAYS}`);
  const document = await eventually('two transports', async () => {
    const found = await application.document();
    return found.lifetime.transports_created === 2 && all(found, 'transports').length === 1 && found;
  });
  assert.deepEqual(document.errors, []);
  assert.equal((await application.document()).lifetime.transports_closed, 1);
});

test('the agent does not run in the context of the request that loaded mediasoup', async (t) => {
  const application = start(t, `
    const storage = new (require('async_hooks').AsyncLocalStorage)();
    require(${JSON.stringify(AGENT)}).setRooms(() => [{ id: String(storage.getStore()), peers: 0 }]);
    storage.run('a request', () => require('mediasoup'));
    ${STAYS}`);
  assert.deepEqual((await application.document('counts')).rooms, [{ id: 'undefined', peers: 0 }]);
});

test('whatever is thrown at it is an error in the document, cut to what a line can hold', async (t) => {
  const application = start(t, `
    const { setRooms } = require(${JSON.stringify(AGENT)});
    const thrown = [null, { name: 'x'.repeat(1000) }, { message: 1 }, { get name() { throw 1; }, toString() { throw 2; } }];
    setRooms(() => { throw thrown.length > 1 ? thrown.shift() : thrown[0]; });
    require('mediasoup');
    ${STAYS}`);
  for (let i = 0; i < 5; i++) {
    const { errors } = await soon('a document', application.document('counts'));
    assert.deepEqual(errors.map(({ object }) => object), ['rooms']);
    assert.ok(errors[0].error.length <= 256 && errors[0].message.length <= 256);
  }
});
