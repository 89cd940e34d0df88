// Every setting, and what becomes of wrong ones: one clear line, and the default, which is never less safe than what was meant.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { Application, eventually, folder, get, WAITS } from './support/application.mjs';

const IDLE = { 'idle.js': WAITS };

/** An application with these settings, by the names without their prefix, and the lines until the agent had said the last. */
async function start(t, settings, last = /info: serves/) {
  const environment = Object.fromEntries(Object.entries(settings).map(([name, value]) => [`SCRAPETARGET_AGENT_${name}`, value]));
  const application = Application.start(t, { script: 'idle.js', files: IDLE, environment });
  await eventually(`${last} in ${JSON.stringify(settings)}`, () => last.test(application.errors));
  return application;
}

const words = (line) => line.replace('scrapetarget-mediasoup-agent: warning: SCRAPETARGET_AGENT_', '');

for (const [settings, expected] of [
  [{ HOST: 'example.com' }, 'HOST must be an IP address, such as :: or 0.0.0.0: 127.0.0.1 is used'],
  [{ HOST: '' }, 'HOST must be an IP address, such as :: or 0.0.0.0: 127.0.0.1 is used'],
  [{ DEADLINE_MS: '5s' }, 'DEADLINE_MS must be a whole number from 100 to 60000: 4000 is used'],
  [{ DEADLINE_MS: '99' }, 'DEADLINE_MS must be a whole number from 100 to 60000: 4000 is used'],
  [{ ADDRESSES: 'some' }, 'ADDRESSES must be one of drop, deidentify, hash, plain: drop is used'],
  [{ APP_DATA: 'roomId,peer id' }, 'APP_DATA must be names of properties with commas between them: it is ignored'],
  [{ ALLOW_ANONYMOUS: 'yes' }, 'ALLOW_ANONYMOUS must be one of true, false: false is used'],
  [{ ENABLED: '1' }, 'ENABLED must be one of true, false: true is used'],
  [{ LOG: 'verbose' }, 'LOG must be one of silent, warn, info, debug: info is used'],
  [{ MEDIASOUP: '' }, 'MEDIASOUP is empty: it is ignored'],
  [{ TOKENS: 'x' }, 'TOKENS is not known: it is ignored'],
  [
    { HOST: '0.0.0.0' },
    'HOST is 0.0.0.0, which others can reach, and needs SCRAPETARGET_AGENT_TOKEN, TLS files, or '
      + 'SCRAPETARGET_AGENT_ALLOW_ANONYMOUS=true: 127.0.0.1 is used',
  ],
]) {
  test(`${JSON.stringify(settings)} costs one line and leaves the default`, async (t) => {
    const application = await start(t, settings);
    assert.deepEqual(application.lines.slice(0, -1).map(words), [expected]);
    assert.match(await application.url(), /^http:\/\/127\.0\.0\.1:/);
    assert.equal((await application.get()).status, 200);
  });
}

for (const [settings, expected] of [
  [{ TOKEN: '' }, 'TOKEN is empty: nothing is served'],
  [{ TOKEN: ' \n' }, 'TOKEN is empty: nothing is served'],
  [{ TOKEN: 'two words' }, 'TOKEN must consist of visible ASCII characters, without spaces: nothing is served'],
  [{ TOKEN: 'x', TOKEN_FILE: 'y' }, 'TOKEN_FILE cannot be used together with SCRAPETARGET_AGENT_TOKEN: nothing is served'],
  [{ TLS_CERT_FILE: 'x' }, 'TLS_CERT_FILE and SCRAPETARGET_AGENT_TLS_KEY_FILE need each other: nothing is served'],
  [{ TLS_KEY_FILE: 'x' }, 'TLS_CERT_FILE and SCRAPETARGET_AGENT_TLS_KEY_FILE need each other: nothing is served'],
  [
    { TLS_CLIENT_CA_FILE: 'x' },
    'TLS_CLIENT_CA_FILE needs SCRAPETARGET_AGENT_TLS_CERT_FILE and SCRAPETARGET_AGENT_TLS_KEY_FILE: nothing is served',
  ],
]) {
  test(`${JSON.stringify(settings)} is a mistake that nobody is served with`, async (t) => {
    const application = await start(t, settings, /nothing is served\n/);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.deepEqual(application.lines.map(words), [expected]);
  });
}

for (const settings of [{ TOKEN: 'secret' }, { ALLOW_ANONYMOUS: 'true' }]) {
  test(`others may reach it with ${JSON.stringify(settings)}`, async (t) => {
    for (const HOST of ['0.0.0.0', '::']) {
      const application = await start(t, { HOST, ...settings });
      const url = (await application.url()).replace('0.0.0.0', '127.0.0.1').replace('[::]', '[::1]');
      const headers = { authorization: 'Bearer secret' };
      assert.equal((await get(url, { headers })).status, 200);
      assert.equal((await get(url)).status, settings.TOKEN ? 401 : 200);
      assert.equal(/warning: everyone who can reach/.test(application.errors), !settings.TOKEN);
      await application.kill();
    }
  });
}

test('what Kubernetes sets for a Service of this name is no setting', async (t) => {
  const application = await start(t, {
    PORT: 'tcp://10.0.0.1:9851',
    HOST: '127.0.0.7',
    SERVICE_HOST: '10.0.0.1',
    SERVICE_PORT: '9851',
    SERVICE_PORT_HTTP: '9851',
    PORT_9851_TCP: 'tcp://10.0.0.1:9851',
    PORT_9851_TCP_ADDR: '10.0.0.1',
    OF_ANOTHER_ROOM_SERVICE_HOST: '10.0.0.2',
    OF_ANOTHER_ROOM_PORT: 'tcp://10.0.0.2:9851',
  });
  assert.equal(application.lines.length, 1);
  assert.equal(await application.url(), 'http://127.0.0.7:9851/stats');
});

test('a port that is none leaves the default one', async (t) => {
  const application = await start(t, { PORT: '65536', HOST: '127.0.0.8' });
  assert.deepEqual(application.lines.slice(0, 1).map(words), ['PORT must be a whole number from 0 to 65535: 9851 is used']);
  assert.equal(await application.url(), 'http://127.0.0.8:9851/stats');
});

test('an agent that is switched off does nothing, and one that is silent says nothing', async (t) => {
  const environment = { SCRAPETARGET_AGENT_ENABLED: 'false', SCRAPETARGET_AGENT_HOST: 'wrong' };
  const off = Application.start(t, { script: 'idle.js', files: IDLE, environment });
  const quiet = { SCRAPETARGET_AGENT_LOG: 'silent', SCRAPETARGET_AGENT_HOST: 'wrong' };
  const silent = Application.start(t, { script: 'idle.js', files: IDLE, environment: quiet });
  await start(t, {});
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(off.errors + silent.errors, '');
});

test('what the application sets before it loads mediasoup is taken, as from a file of its own', async (t) => {
  const source = `
    Object.assign(process.env, {
      SCRAPETARGET_AGENT_HOST: '127.0.0.9',
      SCRAPETARGET_AGENT_PORT: '9851',
      SCRAPETARGET_AGENT_TOKEN: 'secret',
      SCRAPETARGET_AGENT_DEADLINE_MS: 'soon',
    });
    ${IDLE['idle.js']}`;
  const application = Application.start(t, { script: 'idle.js', files: { 'idle.js': source } });
  assert.equal(await application.url(), 'http://127.0.0.9:9851/stats');
  assert.equal((await application.get()).status, 401);
  assert.equal((await application.get('', { headers: { authorization: 'Bearer secret' } })).status, 200);
  assert.deepEqual(application.lines.slice(0, -1).map(words), ['DEADLINE_MS must be a whole number from 100 to 60000: 4000 is used']);
});

test('an agent that an application switches off before it loads mediasoup does nothing', async (t) => {
  const source = `process.env.SCRAPETARGET_AGENT_ENABLED = 'false'; ${IDLE['idle.js']} console.log('loaded');`;
  const application = Application.start(t, { script: 'idle.js', files: { 'idle.js': source } });
  await eventually('mediasoup', () => application.output.includes('loaded'));
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(application.errors, '');
});

test('for debugging, the agent says where it waits for mediasoup', async (t) => {
  const root = folder(t);
  const application = Application.start(t, { root, environment: { SCRAPETARGET_AGENT_LOG: 'debug' } });
  await application.url();
  const [, waits] = /^scrapetarget-mediasoup-agent: debug: waits for (\S+) to be loaded$/.exec(application.lines[0]);
  assert.equal(waits, createRequire(path.join(root, 'commonjs.js')).resolve('mediasoup'));
});

test('mediasoup is looked for where the setting says', async (t) => {
  const root = folder(t);
  const source = `require(${JSON.stringify(root)} + '/node_modules/mediasoup'); setTimeout(() => {}, 600_000);`;
  const bare = mkdtempSync(path.join(os.tmpdir(), 'mediasoup-agent-'));
  t.after(() => rmSync(bare, { recursive: true }));
  writeFileSync(path.join(bare, 'server.js'), source);
  for (const MEDIASOUP of [root, path.join(root, 'commonjs.js')]) {
    const application = Application.start(t, { root: bare, script: 'server.js', environment: { SCRAPETARGET_AGENT_MEDIASOUP: MEDIASOUP } });
    assert.equal((await application.get()).status, 200);
  }
});

test('the README names every setting with its default', async () => {
  const agent = readFileSync(new URL('../../deploy/mediasoup-agent/agent.js', import.meta.url), 'utf8');
  const readme = readFileSync(new URL('../../deploy/mediasoup-agent/README.md', import.meta.url), 'utf8');
  const table = /^const SETTINGS = \{\n(.*?)^\};/ms.exec(agent)[1];
  const settings = [...table.matchAll(/^ {2}(\w+): \{(?:.*standard: '?([\w.]+))?/gm)];
  assert.ok(settings.length > 10);
  for (const [, name, standard] of settings) {
    const row = readme.split('\n').find((line) => line.startsWith('|') && line.split('|')[1].includes(`\`${name}\``));
    assert.equal(row?.split('|')[2].trim(), standard === undefined ? '' : `\`${standard}\``, name);
  }
});
