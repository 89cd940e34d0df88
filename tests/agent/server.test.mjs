// Who is answered, with what, and what bad clients can do, which is nothing.

import assert from 'node:assert/strict';
import { renameSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { AGENT, allowed, Application, eventually, folder } from './support/application.mjs';
import { certificate } from './support/client.mjs';
import { crowd, server } from './support/conference.mjs';

const TOKEN = 'a-token_of.32~characters/or=more';

/** Writes to a connection without asking for anything in particular, and tells what came back until it was closed. */
function raw(url, text) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    let answer = '';
    const socket = net.connect(Number(port), hostname, () => socket.write(text));
    socket.on('data', (data) => void (answer += data)).on('error', () => {}).on('close', () => resolve(answer));
  });
}

test('a request without the token, or with another, is refused, and the token is told to nobody', async (t) => {
  const { application } = await server(t, { environment: { SCRAPETARGET_AGENT_TOKEN: TOKEN, SCRAPETARGET_AGENT_LOG: 'debug' } });
  const ask = (authorization) => application.get('', { headers: authorization === undefined ? {} : { authorization } });
  const others = ['', 'Bearer', 'Bearer ', TOKEN, `Basic ${TOKEN}`, `Bearer ${TOKEN}x`, `Bearer ${TOKEN.slice(1)}`, `Bearer x ${TOKEN}`];
  for (const wrong of [undefined, ...others]) {
    const { status, headers, body } = await ask(wrong);
    assert.equal(status, 401, String(wrong));
    assert.equal(headers['www-authenticate'], 'Bearer');
    assert.doesNotMatch(body, /workers/);
    assert.ok(!body.includes(TOKEN));
  }
  for (const right of [`Bearer ${TOKEN}`, `bearer ${TOKEN}`]) assert.equal((await ask(right)).status, 200, right);
  assert.ok(!application.errors.includes(TOKEN));
});

test('an answer is JSON that nobody keeps, and a wrong request is told what is wrong', async (t) => {
  const { application } = await server(t);
  const { status, headers, body } = await application.get('?detail=all&unknown=1');
  assert.equal(status, 200);
  assert.equal(headers['content-type'], 'application/json');
  assert.equal(headers['cache-control'], 'no-store');
  assert.equal(Number(headers['content-length']), Buffer.byteLength(body));
  assert.equal(JSON.parse(body).workers.length, 1);
  for (const [query, options, expected, words] of [
    ['?detail=everything', {}, 400, /counts, producers, all/],
    ['?detail=', {}, 400, /counts, producers, all/],
    ['?detail=constructor', {}, 400, /counts, producers, all/],
    ['/', {}, 404, /only \/stats/],
    ['s', {}, 404, /only \/stats/],
    ['', { method: 'POST' }, 405, /only GET/],
    ['', { method: 'HEAD' }, 405, /^$/],
  ]) {
    const answer = await application.get(query, options);
    assert.equal(answer.status, expected, query);
    assert.match(answer.body, words);
  }
});

test('what is not HTTP is cut off, and the application goes on', async (t) => {
  const { application } = await server(t);
  const url = await application.url();
  const long = `GET /stats HTTP/1.1\r\nX-Long: ${'x'.repeat(100_000)}\r\n\r\n`;
  for (const text of ['\0\0\0\0', 'GET\r\n\r\n', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', long]) await raw(url, text);
  for (const target of ['//', '/%', 'http://', '*', '/stats?%', '/stats/../stats?detail=%zz', '\\\\']) {
    assert.doesNotMatch(await raw(url, `GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`), /^HTTP\/1.1 5/, target);
  }
  assert.equal((await application.get()).status, 200);
  assert.equal(application.lines.length, 1);
});

test('requests at the same moment share one walk, and what has just been seen is not asked again', async (t) => {
  const { application, router } = await server(t);
  const { transports } = await crowd({ application, router }, { transports: 3 });
  await application.call(undefined, 'countRequests', transports);
  const begun = Date.now();
  const answers = await Promise.all(Array.from({ length: 50 }, () => application.get()));
  answers.push(await application.get());
  const walks = new Set(answers.map(({ body }) => body)).size;
  // What was seen half a second ago is asked again, and a busy machine may take longer than that for fifty answers.
  const most = 1 + Math.floor((Date.now() - begun) / 500);
  assert.ok(walks <= most, `${walks} walks, and ${most} at most`);
  assert.equal((await application.call(undefined, 'requests')).begun, 3 * walks);
  await application.document();
  assert.equal((await application.call(undefined, 'requests')).begun, 3 * walks + 3);
});

test('ten thousand requests at once cost a few walks, and the application answers all the while', { timeout: 600_000 }, async (t) => {
  const { application, router } = await server(t);
  const { transports } = await crowd({ application, router }, { transports: 10, consumersEach: 5 });
  await application.call(undefined, 'countRequests', [transports[0]]);
  const url = await application.url();
  const begun = Date.now();
  const request = 'GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n';
  let slowest = 0;
  let isOver = false;
  const flood = Promise.all(Array.from({ length: 10_000 }, () => raw(url, request))).finally(() => void (isOver = true));
  while (!isOver) {
    const asked = Date.now();
    await application.call(undefined, 'idle');
    slowest = Math.max(slowest, Date.now() - asked);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const answers = await flood;
  const complete = answers.filter((answer) => answer.startsWith('HTTP/1.1 200') && answer.endsWith('}\n')).length;
  assert.ok(complete > 0, 'some are answered');
  assert.ok(answers.every((answer) => answer === '' || answer.startsWith('HTTP/1.1 200')), 'the others are cut off');
  const seconds = (Date.now() - begun) / 1000;
  const walks = (await application.call(undefined, 'requests')).begun;
  assert.ok(walks <= 2 + seconds * 2, `${walks} walks in ${seconds} s`);
  assert.ok(slowest < allowed(5000), `${slowest} ms without an answer of the application`);
  assert.equal((await application.document()).workers.length, 1);
});

test('no more than 64 connections are held, so that the application keeps its file descriptors', async (t) => {
  const { application } = await server(t);
  const { port, hostname } = new URL(await application.url());
  let closed = 0;
  const connect = () => net.connect(Number(port), hostname).on('error', () => {}).on('close', () => void closed++);
  const sockets = Array.from({ length: 100 }, connect);
  t.after(() => sockets.forEach((socket) => socket.destroy()));
  await eventually('the others are cut off', () => closed >= 36);
  await application.call(undefined, 'idle');
  assert.equal(closed, 36);
});

test('connections that have asked nothing for half a second make way for a poller', async (t) => {
  const { application } = await server(t);
  const { port, hostname } = new URL(await application.url());
  const silent = () => {
    const socket = net.connect(Number(port), hostname, () => socket.write('GET /stats HTTP/1.1\r\n'));
    t.after(() => socket.destroy());
    return socket.on('error', () => {}).on('close', () => t.signal.aborted || silent());
  };
  Array.from({ length: 64 }, silent);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  for (let i = 0; i < 5; i++) {
    // On a busy machine those that have made way may be back, and none of them old enough: a poller asks again.
    const asked = Date.now();
    const { status } = await eventually('an answer', () => application.get().catch(() => undefined));
    assert.equal(status, 200);
    assert.ok(Date.now() - asked < allowed(1000), `${Date.now() - asked} ms`);
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
});

test('without a token, a page in a browser of the same host cannot read by a name that it has', async (t) => {
  const { application } = await server(t);
  const ask = async (host, by = application) => (await by.get('', { headers: { host } })).status;
  for (const host of ['127.0.0.1', '127.0.0.1:9851', 'localhost:9851', 'LOCALHOST', '[::1]:9851', '10.0.0.1']) {
    assert.equal(await ask(host), 200, host);
  }
  for (const host of ['rebind.example', 'rebind.example:9851', 'localhost.example', '127.0.0.1.example']) {
    assert.equal(await ask(host), 421, host);
  }
  for (const SCRAPETARGET_AGENT_HOST of ['127.0.0.1', '0.0.0.0']) {
    const environment = { SCRAPETARGET_AGENT_HOST, SCRAPETARGET_AGENT_ALLOW_ANONYMOUS: 'true' };
    const { application: open } = await server(t, { environment });
    assert.equal(await ask('proxy.example', open), 200, SCRAPETARGET_AGENT_HOST);
  }
});

test('clients that never read cost little memory, and are let go', async (t) => {
  const { application } = await server(t, { hurry: true, options: ['--expose-gc'] });
  const many = Array.from({ length: 10_000 }, (_, i) => ({ id: `${i}`.padEnd(256, '\u6f22'), peers: i }));
  await application.call(undefined, 'agent', AGENT, 'setRooms', many);
  const { port, hostname } = new URL(await application.url());
  const before = await application.call(undefined, 'memory');
  const sockets = Array.from({ length: 60 }, () => {
    const socket = net.connect(Number(port), hostname, () => socket.write('GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'));
    return socket.pause().on('error', () => {});
  });
  t.after(() => sockets.forEach((socket) => socket.destroy()));
  await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.once('connect', resolve))));
  const { status, body } = await eventually('an answer for a client that reads', () => application.get().catch(() => undefined));
  assert.equal(status, 200);
  assert.equal(JSON.parse(body).rooms.length, 10_000);
  await application.call(undefined, 'agent', AGENT, 'setRooms', undefined);
  await eventually('their documents to be forgotten', async () => (await application.call(undefined, 'memory')) < before + 4e6);
});

test('with TLS files it serves https, and with an authority only those whom it has signed', async (t) => {
  const [own, friend, stranger] = await Promise.all([certificate(), certificate(), certificate()]);
  const root = folder(t, { 'tls.crt': own.cert, 'tls.key': own.key, 'ca.crt': friend.cert });
  const environment = {
    SCRAPETARGET_AGENT_HOST: '0.0.0.0',
    SCRAPETARGET_AGENT_TLS_CERT_FILE: 'tls.crt',
    SCRAPETARGET_AGENT_TLS_KEY_FILE: 'tls.key',
  };
  const ask = async (application, client = {}) => {
    const url = (await application.url()).replace('0.0.0.0', '127.0.0.1');
    assert.match(url, /^https:/);
    return new Promise((resolve) => {
      const options = { agent: false, ca: own.cert, checkServerIdentity: () => undefined, ...client };
      https.get(url, options, (response) => resolve(response.resume().statusCode)).on('error', (error) => resolve(error.code));
    });
  };
  const open = await server(t, { root, environment });
  assert.equal(await ask(open.application), 200);
  assert.match(open.application.errors, /warning: everyone who can reach/);

  const mutual = await server(t, { root, environment: { ...environment, SCRAPETARGET_AGENT_TLS_CLIENT_CA_FILE: 'ca.crt' } });
  assert.equal(await ask(mutual.application, friend), 200);
  assert.notEqual(await ask(mutual.application, stranger), 200);
  assert.notEqual(await ask(mutual.application), 200);
  assert.doesNotMatch(mutual.application.errors, /warning/);
});

test('a token and certificates that are renewed are used without a restart, and broken ones are not', async (t) => {
  const [first, second] = await Promise.all([certificate(), certificate()]);
  const root = folder(t, { 'tls.crt': first.cert, 'tls.key': first.key, token: `${TOKEN}\n` });
  const application = Application.start(t, {
    root,
    hurry: true,
    environment: {
      SCRAPETARGET_AGENT_TOKEN_FILE: 'token',
      SCRAPETARGET_AGENT_TLS_CERT_FILE: 'tls.crt',
      SCRAPETARGET_AGENT_TLS_KEY_FILE: 'tls.key',
    },
  });
  const url = await application.url();
  const ask = (token, { cert }) => new Promise((resolve) => {
    const options = { agent: false, ca: cert, checkServerIdentity: () => undefined, headers: { authorization: `Bearer ${token}` } };
    https.get(url, options, (response) => resolve(response.resume().statusCode)).on('error', (error) => resolve(error.code));
  });
  assert.equal(await ask(TOKEN, first), 200);
  assert.equal(await ask('another', first), 401);

  writeFileSync(path.join(root, 'token'), 'another');
  await eventually('the new token', async () => (await ask('another', first)) === 200);
  assert.equal(await ask(TOKEN, first), 401);

  writeFileSync(path.join(root, 'tls.key'), second.key);
  await eventually('warning', () => /warning: goes on with the secrets it has: cannot use/.test(application.errors));
  assert.equal(await ask('another', first), 200);
  writeFileSync(path.join(root, 'tls.crt'), second.cert);
  await eventually('the new certificate', async () => (await ask('another', second)) === 200);

  writeFileSync(path.join(root, 'token'), ' \n');
  await eventually('warning', () => /the token in .* is empty/.test(application.errors));
  assert.equal(await ask('another', second), 200);
});

test('secrets that are not there yet are waited for, and nobody is served until then', async (t) => {
  const root = folder(t);
  const environment = { SCRAPETARGET_AGENT_TOKEN_FILE: 'token' };
  const application = Application.start(t, { root, environment, hurry: true });
  await eventually('warning', () => /warning: cannot serve, and tries again every 5 s: ENOENT/.test(application.errors));
  assert.doesNotMatch(application.errors, /info: serves/);
  // Never half a file: an empty one would be told of.
  writeFileSync(path.join(root, 'new'), TOKEN);
  renameSync(path.join(root, 'new'), path.join(root, 'token'));
  assert.equal((await application.get()).status, 401);
  assert.equal((await application.get('', { headers: { authorization: `Bearer ${TOKEN}` } })).status, 200);
  assert.equal(application.lines.length, 2);
});
