// The agent is a guest: what it does to the process that it is loaded into, and above all what it does not.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import tls from 'node:tls';

import {
  AGENT, all, allowed, Application, eventually, folder, get, INSTALLED, NODE, portOfNobodyElse, soon, WAITS,
} from './support/application.mjs';
import { certificate } from './support/client.mjs';
import { crowd, server } from './support/conference.mjs';

/** Runs a command until it ends. */
async function run(t, command, args, { cwd, env = {} }) {
  const child = spawn(command, args, { cwd, env: { ...process.env, SCRAPETARGET_AGENT_PORT: '0', ...env } });
  t.after(() => child.kill('SIGKILL'));
  let [output, errors] = ['', ''];
  child.stdout.on('data', (data) => void (output += data));
  child.stderr.on('data', (data) => void (errors += data));
  const code = await soon(`end of ${command} ${args.join(' ')}`, new Promise((resolve) => child.once('close', resolve)));
  return { code, output, errors };
}

for (const script of ['commonjs.js', 'modules.mjs']) {
  for (const NODE_OPTIONS of [undefined, `--require ${AGENT}`]) {
    test(`${script} is watched by ${NODE_OPTIONS ? 'NODE_OPTIONS' : 'node -r'}`, async (t) => {
      const { application, worker } = await server(t, { script, environment: NODE_OPTIONS ? { NODE_OPTIONS } : {} });
      const document = await application.document();
      assert.deepEqual(document.workers.map(({ pid }) => pid), [worker.pid]);
    });
  }
}

const hasHooks = Number(execFileSync(NODE, ['-p', 'parseInt(process.versions.node)'], { encoding: 'utf8' })) >= 20;

test('an application is watched although its modules go through hooks, as tracing installs them', { skip: !hasHooks }, async (t) => {
  const hooks = `
    import { readFileSync } from 'node:fs';
    import { fileURLToPath } from 'node:url';
    export async function load(url, context, next) {
      const module = await next(url, context);
      if (module.format === 'commonjs' && url.startsWith('file:')) module.source ??= readFileSync(fileURLToPath(url));
      return module;
    }`;
  const register = "import { register } from 'node:module'; register('./hooks.mjs', import.meta.url);";
  const root = folder(t, { 'hooks.mjs': hooks, 'register.mjs': register });
  for (const script of ['commonjs.js', 'modules.mjs']) {
    const { application } = await server(t, { root, script, options: ['--import', path.join(root, 'register.mjs')] });
    assert.equal((await application.document()).workers.length, 1, script);
  }
});

test('a script is found by its path, as the main file of a folder and through a link, wherever it is started', async (t) => {
  const root = folder(t, { 'media/index.js': WAITS });
  renameSync(path.join(root, 'node_modules'), path.join(root, 'media/node_modules'));
  const elsewhere = mkdtempSync(path.join(os.tmpdir(), 'mediasoup-agent-'));
  t.after(() => rmSync(elsewhere, { recursive: true }));
  symlinkSync(path.join(root, 'media/index.js'), path.join(elsewhere, 'server'));
  for (const script of [path.join(root, 'media/index.js'), path.join(root, 'media'), path.join(elsewhere, 'server')]) {
    const application = Application.start(t, { root: elsewhere, script });
    await application.url();
    await application.kill();
  }
});

test('an application in pm2, whose script is pm2\'s own, is found as pm2 names it', async (t) => {
  const root = folder(t);
  const manager = folder(t, { 'container.js': 'require(process.argv[2]);' });
  rmSync(path.join(manager, 'node_modules'));
  const link = path.join(manager, 'link.js');
  symlinkSync(path.join(root, 'commonjs.js'), link);
  for (const [pm_exec_path, environment] of [
    [link, { pm_exec_path: link }],
    [path.join(root, 'commonjs.js'), { pm2_env: JSON.stringify({ pm_exec_path: path.join(root, 'commonjs.js') }) }],
  ]) {
    const application = Application.start(t, { root: manager, script: 'container.js', args: [pm_exec_path], environment });
    assert.deepEqual((await application.document()).workers, []);
    await application.kill();
  }
});

test('an application that never creates a worker has an empty document', async (t) => {
  const application = Application.start(t, { script: 'idle.js', files: { 'idle.js': WAITS } });
  const document = await application.document();
  assert.deepEqual(document.workers, []);
  assert.deepEqual(document.errors, []);
  assert.equal(document.lifetime.workers_created, 0);
});

test('a process that does not load mediasoup does not listen and says nothing', async (t) => {
  const root = folder(t, { 'other.js': "console.log('done');", 'package.json': '{"scripts": {"start": "node other.js"}}' });
  const env = { NODE_OPTIONS: `--require ${AGENT}`, npm_config_loglevel: 'silent' };
  for (const [command, ...args] of [[NODE, 'other.js'], [NODE, '-e', "console.log('done')"], ['npm', 'start']]) {
    const { code, output, errors } = await run(t, command, args, { cwd: root, env });
    assert.equal(code, 0, command);
    assert.match(output, /done/);
    assert.doesNotMatch(errors, /scrapetarget/, args.join(' '));
  }
  const { errors } = await run(t, NODE, ['-e', '1'], { cwd: '/', env: { ...env, SCRAPETARGET_AGENT_LOG: 'debug' } });
  assert.match(errors, /debug: no mediasoup can be loaded from here/);
});

test('of npm start and the application that it starts, only the application serves', async (t) => {
  const root = folder(t, {
    'package.json': '{"scripts": {"start": "node server.js"}}',
    'server.js': "require('mediasoup'); setTimeout(() => process.exit(0), 500);",
  });
  const { errors } = await run(t, 'npm', ['start'], { cwd: root, env: { NODE_OPTIONS: `--require ${AGENT}` } });
  assert.equal(errors.match(/scrapetarget-mediasoup-agent/g)?.length, 1, errors);
});

test('the environment that an application sets before it loads mediasoup is what mediasoup reads', async (t) => {
  const source = `
    process.env.MEDIASOUP_WORKER_BIN = '/nowhere/mediasoup-worker';
    require('mediasoup').createWorker().then(() => console.log('created'), (error) => console.log(error.message));`;
  const root = folder(t, { 'server.js': source });
  const { output } = await run(t, NODE, ['-r', AGENT, 'server.js'], { cwd: root });
  assert.match(output, /nowhere/);
});

test('an application that throws dies of its own error, with its own exit code and words', async (t) => {
  const source = "require('mediasoup').createWorker().then(() => setImmediate(() => { throw new Error('my mistake'); }));";
  const root = folder(t, { 'server.js': source });
  const without = await run(t, NODE, ['server.js'], { cwd: root });
  const result = await run(t, NODE, ['-r', AGENT, 'server.js'], { cwd: root });
  const own = result.errors.replace(/^scrapetarget-mediasoup-agent: .*\n/gm, '');
  assert.deepEqual([result.code, own], [without.code, without.errors]);
});

test('an application that exits, exits at once with its code', async (t) => {
  const { application } = await server(t);
  await application.url();
  await assert.rejects(application.call(undefined, 'exit', 7), /the application ended/);
  assert.deepEqual(await application.end(), { code: 7, signal: null });
});

test('an application that survives what it throws stays watched', async (t) => {
  const { application, worker } = await server(t);
  await application.url();
  assert.equal(await application.call(undefined, 'throwAndCatch'), 'a mistake of the application');
  assert.deepEqual((await application.document()).workers.map(({ pid }) => pid), [worker.pid]);
});

test('a signal ends an application as it does without the agent', async (t) => {
  const application = Application.start(t, { script: 'idle.js', files: { 'idle.js': WAITS } });
  await application.url();
  application.child.kill('SIGTERM');
  assert.deepEqual(await application.end(), { code: null, signal: 'SIGTERM' });
});

const SECRETS = {
  SCRAPETARGET_AGENT_TOKEN_FILE: 'token',
  SCRAPETARGET_AGENT_TLS_CERT_FILE: 'tls.crt',
  SCRAPETARGET_AGENT_TLS_KEY_FILE: 'tls.key',
};
for (const [title, environment] of [['http', {}], ['https, with secrets from files', SECRETS]]) {
  test(`an application that has nothing left to do ends, although somebody is connected by ${title}`, async (t) => {
    const source = `
      require('mediasoup');
      const wait = setInterval(() => require('fs').existsSync('go') && clearInterval(wait), 20);`;
    const { cert, key } = await certificate();
    const root = folder(t, { 'server.js': source, 'tls.crt': cert, 'tls.key': key, token: 'secret' });
    const application = Application.start(t, { root, script: 'server.js', environment });
    application.child.channel.unref();
    const { port, protocol } = new URL(await application.url());
    const options = { port, host: '127.0.0.1', rejectUnauthorized: false };
    const [socket, connected] = protocol === 'https:' ? [tls.connect(options), 'secureConnect'] : [net.connect(options), 'connect'];
    socket.on('error', () => {});
    await new Promise((resolve) => socket.once(connected, resolve));
    copyFileSync(path.join(root, 'server.js'), path.join(root, 'go'));
    const begun = Date.now();
    assert.deepEqual(await application.end(), { code: 0, signal: null });
    assert.ok(Date.now() - begun < allowed(3000), 'at once');
  });
}

test('nothing is added to the events of the process, its globals or what it loads', async (t) => {
  const source = `
    require('mediasoup');
    setTimeout(() => {
      console.log(JSON.stringify([
        process.eventNames().map((name) => [String(name), process.listenerCount(name)]),
        Object.keys(globalThis),
        Object.keys(require.cache).filter((name) => !name.endsWith('agent.js')),
        process._getActiveHandles().length,
      ]));
      process.exit(0);
    }, 500);`;
  const root = folder(t, { 'server.js': source });
  const without = await run(t, NODE, ['server.js'], { cwd: root });
  const result = await run(t, NODE, ['-r', AGENT, 'server.js'], { cwd: root });
  const [, , , handles] = JSON.parse(without.output);
  const [events, globals, modules, more] = JSON.parse(result.output);
  assert.deepEqual([events, globals, modules], JSON.parse(without.output).slice(0, 3));
  assert.ok(more <= handles + 2, 'the listening socket, and standard error that it wrote to');
});

test('an application whose standard error nobody reads any more goes on', async (t) => {
  const other = net.createServer().listen(await portOfNobodyElse(), '127.0.0.1');
  t.after(() => other.close());
  await new Promise((resolve) => other.once('listening', resolve));
  const environment = { SCRAPETARGET_AGENT_PORT: String(other.address().port), SCRAPETARGET_AGENT_LOG: 'debug' };
  const application = Application.start(t, { environment, hurry: true });
  application.child.stderr.destroy();
  // Long enough for some lines.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  assert.equal(await application.call(undefined, 'idle'), undefined);
  other.close();
  await eventually('service', () => get(`http://127.0.0.1:${environment.SCRAPETARGET_AGENT_PORT}/stats`).then(() => true, () => false));
});

test('the agent that is loaded twice, from two files, is one agent', async (t) => {
  const root = folder(t, { 'server.js': WAITS });
  copyFileSync(AGENT, path.join(root, 'copy.js'));
  const application = Application.start(t, { root, script: 'server.js', options: ['-r', './copy.js', '-r', AGENT] });
  await application.document();
  assert.equal(application.lines.length, 1);
});

test('a port in use is one warning, and is taken as soon as it is free', async (t) => {
  const other = net.createServer().listen(await portOfNobodyElse(), '127.0.0.1');
  t.after(() => other.close());
  await new Promise((resolve) => other.once('listening', resolve));
  const environment = { SCRAPETARGET_AGENT_PORT: String(other.address().port) };
  const { application } = await server(t, { environment, hurry: true });
  await eventually('warning', () => application.lines.length > 0);
  // Long enough for more than one attempt.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  assert.equal(application.lines.length, 1);
  assert.match(application.lines[0], /warning: cannot listen, and tries again every 5 s: listen EADDRINUSE/);
  other.close();
  assert.equal((await application.document()).workers.length, 1);
});

test('each child of a cluster has a port of its own above the configured one, and so has each thread', async (t) => {
  const first = await portOfNobodyElse();
  const files = {
    'cluster.js': `
      const cluster = require('cluster');
      if (cluster.isPrimary) { require('mediasoup'); cluster.fork(); cluster.fork(); }
      else require('mediasoup').createWorker();`,
    'threads.js': `
      const { Worker } = require('worker_threads');
      require('mediasoup');
      // Threads are told neither their script before they run it, nor where their parent began.
      process.chdir('/');
      for (const _ of [1, 2]) new Worker(__dirname + '/thread.mjs');`,
    'thread.mjs': "import { createWorker } from 'mediasoup'; await createWorker();",
  };
  for (const script of ['cluster.js', 'threads.js']) {
    const environment = { NODE_OPTIONS: `--require ${AGENT}`, SCRAPETARGET_AGENT_PORT: String(first) };
    const application = Application.start(t, { script, files, environment });
    const ports = await eventually('three ports', () => {
      const found = [...application.errors.matchAll(/info: serves http:\/\/127.0.0.1:(\d+)/g)].map(([, port]) => Number(port));
      return found.length === 3 && found.sort((a, b) => a - b);
    });
    assert.equal(ports[0], first, `${script}: the first port is the parent's`);
    assert.equal(new Set(ports).size, 3);
    assert.ok(ports[2] <= first + 64);
    for (const port of ports) {
      const number = port === first ? 0 : 1;
      await eventually('worker of its own', async () => {
        const { body } = await get(`http://127.0.0.1:${port}/stats?detail=counts`);
        return JSON.parse(body).workers.length === number;
      });
    }
    await application.kill();
  }
});

test('a child of a cluster serves nothing where no port is left above the configured one', async (t) => {
  const source = `
    const cluster = require('cluster');
    if (cluster.isPrimary) cluster.fork();
    else require('mediasoup').createWorker().then(() => console.log('goes on'));`;
  const environment = { NODE_OPTIONS: `--require ${AGENT}`, SCRAPETARGET_AGENT_PORT: '65535' };
  const application = Application.start(t, { script: 'server.js', files: { 'server.js': source }, environment });
  await eventually('its worker', () => application.output.includes('goes on'));
  await eventually('warning', () => application.lines.length > 0);
  // Long enough for a server to begin.
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual(application.lines, [
    'scrapetarget-mediasoup-agent: warning: SCRAPETARGET_AGENT_PORT leaves no port above it for a process of a cluster or a thread: '
      + 'nothing is served',
  ]);
});

test('what closes in the middle of a walk is an error in the document', async (t) => {
  const { application, router } = await server(t);
  const { transports, producers, consumers } = await crowd({ application, router }, { transports: 20, consumersEach: 5 });
  const everything = [...transports, ...producers, ...consumers];
  const half = transports.slice(10);
  await application.call(undefined, 'countRequests', everything, 30, half);
  const document = await application.document();
  assert.ok(document.errors.length >= 10);
  for (const { object, id, error, message } of document.errors) {
    assert.ok(['transport', 'producer', 'consumer'].includes(object), object);
    assert.ok(id && error && message);
  }
  assert.deepEqual(all(document, 'transports').map(({ id }) => id), transports.slice(0, 10).map(({ id }) => id));
  assert.ok(all(document, 'transports').every(({ stats }) => stats.bytesSent !== undefined), 'what is left is complete');
  const { begun } = await application.call(undefined, 'requests');
  assert.ok(begun < everything.length, `${begun} requests: nobody asks for what is known to be closed`);
});

test('an application that closes everything in the middle of a walk gets a document without it', async (t) => {
  for (const victim of ['worker', 'router']) {
    const { application, ...objects } = await server(t);
    const { transports, producers, consumers } = await crowd({ application, ...objects }, { transports: 10, consumersEach: 5 });
    await application.call(undefined, 'countRequests', [...transports, ...producers, ...consumers], 20, [objects[victim]]);
    const document = await application.document();
    assert.equal(all(document, 'routers').length, 0, victim);
    assert.ok(document.errors.some(({ object }) => object === victim), victim);
    assert.deepEqual((await application.document()).errors, [], 'the next walk knows nothing of it');
    assert.doesNotMatch(application.errors, /warning/);
  }
});

test('a worker that does not answer costs a walk its deadline, is never asked more, and hides no other', async (t) => {
  // Long enough for the worker that does answer, on a busy machine as well.
  const deadlineMs = 3000;
  const { application, worker, router } = await server(t, { environment: { SCRAPETARGET_AGENT_DEADLINE_MS: String(deadlineMs) } });
  const { transports } = await crowd({ application, router }, { transports: 40 });
  const other = await application.call(undefined, 'createWorker', {});
  const otherRouter = await application.call(other, 'createRouter', { mediaCodecs: [] });
  await crowd({ application, router: otherRouter }, { transports: 3 });
  await application.call(undefined, 'countRequests', transports);

  process.kill(worker.pid, 'SIGSTOP');
  t.after(() => process.kill(worker.pid, 'SIGCONT'));
  const stuck = await application.document();
  assert.ok(stuck.collection_ms >= deadlineMs - 10 && stuck.collection_ms < allowed(deadlineMs + 1500), `${stuck.collection_ms} ms`);
  assert.deepEqual(stuck.errors.map(({ object, id, error }) => [object, id, error]), [['worker', String(worker.pid), 'DeadlineExceeded']]);
  assert.equal(all(stuck, 'transports').length, 43);
  assert.equal(all(stuck, 'transports').filter(({ stats }) => stats.bytesSent !== undefined).length, 3);

  const next = await application.document();
  assert.deepEqual(next.errors.map(({ error }) => error), ['Unresponsive']);
  assert.ok(next.collection_ms < deadlineMs, 'it is not waited for again');
  const { most } = await application.call(undefined, 'requests');
  assert.ok(most <= 16, `${most} requests`);

  process.kill(worker.pid, 'SIGCONT');
  await eventually('recovery', async () => (await application.document()).errors.length === 0);
});

test('rooms are shown as the application tells them', async (t) => {
  const { application } = await server(t);
  assert.equal((await application.document('counts')).rooms, undefined);
  await application.call(undefined, 'agent', AGENT, 'setRooms', [{ id: 'a', peers: 2 }, { id: 7 }]);
  assert.deepEqual((await application.document('counts')).rooms, [{ id: 'a', peers: 2 }, { id: '7' }]);
  for (const wrong of [[{ peers: 2 }], 5]) {
    await application.call(undefined, 'agent', AGENT, 'setRooms', wrong);
    const document = await application.document('counts');
    assert.equal(document.rooms, undefined);
    assert.deepEqual(document.errors.map(({ object, error }) => [object, error]), [['rooms', 'TypeError']]);
  }
});

test('an application that is a bundle hands its mediasoup over', async (t) => {
  const text = readFileSync(path.join(INSTALLED, 'node_modules/mediasoup/package.json'), 'utf8');
  const main = path.join(INSTALLED, 'node_modules/mediasoup', JSON.parse(text).main);
  const source = `
    const mediasoup = require(${JSON.stringify(main)});
    require(${JSON.stringify(AGENT)}).attach(mediasoup);
    require(${JSON.stringify(AGENT)}).attach(mediasoup);
    mediasoup.createWorker();`;
  const application = Application.start(t, { script: 'server.js', files: { 'server.js': source } });
  await eventually('its worker', async () => (await application.document()).lifetime.workers_created === 1);
  assert.equal((await application.document()).workers.length, 1);
});

/** An application on a mediasoup that is made up: its agent and its observer are there, and it goes on for longer than any test. */
const madeUp = (source) => ({
  'server.js': `
    const observer = new (require('events'))();
    require(${JSON.stringify(AGENT)}).attach({ version: '3.0.0', observer });
    ${source}
    setTimeout(() => {}, 600_000);`,
});

test('what the agent cannot make sense of is one warning, and nothing that the application meets', async (t) => {
  const source = "observer.emit('newworker', {}); observer.emit('newworker', undefined); console.log('goes on');";
  const application = Application.start(t, { script: 'server.js', files: madeUp(source) });
  await eventually('the rest of the application', () => application.output.includes('goes on'));
  await application.document();
  const warnings = application.lines.filter((line) => line.includes('warning'));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], /warning: cannot keep track of newworker: /);
});

test('what the application drops without closing it is not kept, and counted as closed', async (t) => {
  const source = `
    const collected = new FinalizationRegistry(() => console.log('collected'));
    const create = () => {
      const worker = { observer: new (require('events'))(), on: () => {}, pid: 1 };
      collected.register(worker);
      observer.emit('newworker', worker);
    };
    create();
    setInterval(() => global.gc(), 50);`;
  const application = Application.start(t, { script: 'server.js', files: madeUp(source), options: ['--expose-gc'] });
  await eventually('collection', () => application.output.includes('collected'));
  const { workers, lifetime } = await application.document();
  assert.deepEqual([workers, lifetime.workers_created, lifetime.workers_closed], [[], 1, 1]);
});

test('what is not mediasoup 3 is one warning', async (t) => {
  const files = { 'server.js': `require(${JSON.stringify(AGENT)}).attach({ version: '2.6.0' }); setTimeout(() => {}, 600_000);` };
  const application = Application.start(t, { script: 'server.js', files });
  await eventually('warning', () => application.lines.length > 0);
  assert.deepEqual(application.lines, ['scrapetarget-mediasoup-agent: warning: cannot watch mediasoup: this is not mediasoup 3']);
});
