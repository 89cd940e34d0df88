// Starts applications of mediasoup with the agent, in processes of their own, and asks the agents.

import { fork } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const AGENT = fileURLToPath(new URL('../../../deploy/mediasoup-agent/agent.js', import.meta.url));
const HURRY = fileURLToPath(new URL('./hurry.js', import.meta.url));
const APPLICATIONS = fileURLToPath(new URL('../applications', import.meta.url));

/** Where `make` has installed mediasoup. */
export const INSTALLED = process.env.MEDIASOUP_INSTALLED;
if (!INSTALLED) throw new Error('MEDIASOUP_INSTALLED must name the folder that mediasoup is installed in: use make test-agent');

/** The Node.js that applications run on unless a test names another, which may be older than the one of these tests. */
export const NODE = process.env.NODE ?? process.execPath;

/** An application that loads mediasoup and goes on for longer than any test. */
export const WAITS = "require('mediasoup'); setTimeout(() => {}, 600_000);";

/** Longest that anything may take which takes a moment where there is time for it: a build beside it makes a second a minute. */
export const PATIENCE_MS = 60_000;

/**
 * How many milliseconds may pass where so many are promised: on a machine with more to do than it has cores, everything takes as many
 * times longer. On one that is idle it is the promise itself.
 */
export function allowed(promisedMs) {
  // `0.20 0.18 0.12 1/80 11206`: three means, and those that want to run now of all that there are.
  const [mean, , , now] = readFileSync('/proc/loadavg', 'utf8').split(/[ /]/).map(Number);
  return promisedMs * (1 + Math.max(mean, now) / os.cpus().length);
}

/** What `look` gives as soon as it gives the same again after a while: nothing is under way any more. */
export async function atRest(what, look) {
  let before;
  return eventually(`an end of ${what}`, async () => {
    const now = await look();
    const same = JSON.stringify(now) === before;
    before = JSON.stringify(now);
    if (!same) await new Promise((resolve) => setTimeout(resolve, 300));
    return same && now;
  });
}

/**
 * A port of loopback that is free, as most probably are some above it, and stays so while nobody listens there: it lies below the range
 * from which the system takes those that it gives to clients, and to servers that ask for any.
 */
export async function portOfNobodyElse() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 21_000);
    const listener = net.createServer();
    const isFree = await new Promise((resolve) => {
      listener.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => listener.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}

/** Waits until `condition` gives something, which it returns. */
export async function eventually(what, condition) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > end) throw new Error(`${what}: not within ${PATIENCE_MS / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** What `promise` gives, if it does so within a reasonable time. */
export function soon(what, promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${what}: not within ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** A folder that holds an application, with mediasoup installed as a package manager does it. */
export function folder(t, files = {}) {
  const root = mkdtempSync(path.join(os.tmpdir(), 'mediasoup-agent-'));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  cpSync(APPLICATIONS, root, { recursive: true });
  symlinkSync(path.join(INSTALLED, 'node_modules'), path.join(root, 'node_modules'));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), text);
  }
  return root;
}

/** A process with the agent. */
export class Application {
  /**
   * `script` is one of the applications, one of `files`, or a path. The agent is loaded by an option of node, or by NODE_OPTIONS if
   * `environment` has them. With `hurry`, time goes twenty times as fast for the agent.
   */
  static start(
    t,
    { script = 'commonjs.js', files, environment = {}, options = [], args = [], hurry, node = NODE, root = folder(t, files) } = {},
  ) {
    const agent = environment.NODE_OPTIONS === undefined ? ['-r', AGENT] : [];
    const execArgv = [...(hurry ? ['-r', HURRY] : []), ...agent, ...options];
    const env = { ...process.env, SCRAPETARGET_AGENT_PORT: '0', ...environment };
    const stdio = ['ignore', 'pipe', 'pipe', 'ipc'];
    const child = fork(path.resolve(root, script), args, { execPath: node, cwd: root, env, execArgv, stdio });
    const application = new Application(child);
    t.after(() => application.kill());
    return application;
  }

  constructor(child) {
    this.child = child;
    this.pid = child.pid;
    this.output = '';
    this.errors = '';
    this.calls = new Map();
    child.stdout.on('data', (data) => void (this.output += data));
    child.stderr.on('data', (data) => void (this.errors += data));
    child.on('message', (message) => this.receive(message));
    // `close` comes when everything it wrote has arrived.
    this.ended = new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal })));
    this.ready = new Promise((resolve) => void (this.isReady = resolve));
    void this.ended.then(() => this.calls.forEach(({ reject }) => reject(new Error(`the application ended: ${this.errors}`))));
  }

  receive({ ready, call, result, error }) {
    if (ready) this.isReady();
    const { resolve, reject } = this.calls.get(call) ?? {};
    this.calls.delete(call);
    if (error !== undefined) reject?.(new Error(error));
    else resolve?.(result);
  }

  /** Calls a method of the application, or of one of its objects. */
  async call(target, method, ...args) {
    await Promise.race([this.ready, this.ended]);
    const call = this.calls.size === 0 ? 1 : Math.max(...this.calls.keys()) + 1;
    const answer = new Promise((resolve, reject) => void this.calls.set(call, { resolve, reject }));
    this.child.send({ call, target: target?.handle, method, args });
    return soon(`answer of the application to ${method}`, answer);
  }

  /** How the application ended by itself. */
  async end() {
    return soon('end of the application', this.ended);
  }

  /** What the agent said, line by line. */
  get lines() {
    return this.errors.split('\n').filter((line) => line.startsWith('scrapetarget-mediasoup-agent: '));
  }

  /** The address that the agent says it serves at. */
  async url() {
    const said = () => /info: serves (https?:\S+)/.exec(this.errors)?.[1];
    return eventually(`address in ${JSON.stringify(this.errors)}`, said);
  }

  /** The agent's answer. */
  async get(query = '', options = {}) {
    return get(`${await this.url()}${query}`, options);
  }

  /** The document, of a walk that begins after this call. */
  async document(detail = 'all') {
    const before = Date.now();
    return eventually('a new document', async () => {
      const { status, body } = await this.get(`?detail=${detail}`);
      if (status !== 200) throw new Error(`status ${status}: ${body}`);
      const document = JSON.parse(body);
      return document.timestamp_ms >= before && document;
    });
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }
}

/** One request on a connection of its own. */
export function get(url, { headers, method = 'GET', ...options } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { headers, method, agent: false, ...options }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (data) => void (body += data));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body })).on('error', reject);
    });
    request.on('error', reject).end();
  });
}

/** Every object of a kind in a document, such as `consumers`, with the transport that it is on. */
export function all(document, list) {
  const routers = document.workers.flatMap((worker) => worker.routers);
  if (list === 'routers') return routers;
  const transports = routers.flatMap((router) => router.transports);
  return list === 'transports' ? transports : transports.flatMap((transport) => transport[list]);
}
