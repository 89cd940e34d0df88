// What the mediasoup agent costs its application: 50 transports, 50 producers and 500 consumers with media on one real worker.
//
// `make bench-agent`. The application and its worker are processes of their own; this one polls. The figures in brackets are what is
// aimed at. TRANSPORTS and CONSUMERS choose other sizes, POLLS how many of each are measured.

import { fork } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const AGENT = fileURLToPath(new URL('../deploy/mediasoup-agent/agent.js', import.meta.url));
const APPLICATION = fileURLToPath(new URL('./support/conference.js', import.meta.url));
const SIZE = { transports: Number(process.env.TRANSPORTS ?? 50), consumers: Number(process.env.CONSUMERS ?? 500) };
const OBJECTS = 2 * SIZE.transports + SIZE.consumers;
const POLLS = Number(process.env.POLLS ?? 40);
/** Longer than the agent keeps a document. */
const PAUSE_MS = 600;
const INTERVAL_S = 5;

const root = mkdtempSync(path.join(os.tmpdir(), 'mediasoup-agent-'));
copyFileSync(APPLICATION, path.join(root, 'conference.js'));
symlinkSync(path.join(process.env.MEDIASOUP_INSTALLED, 'node_modules'), path.join(root, 'node_modules'));

class Conference {
  constructor(withAgent) {
    const execArgv = ['--expose-gc', ...(withAgent ? ['-r', AGENT] : [])];
    const env = { ...process.env, SCRAPETARGET_AGENT_PORT: '0' };
    this.child = fork(path.join(root, 'conference.js'), { execArgv, env, stdio: ['ignore', 'inherit', 'pipe', 'ipc'] });
    this.said = '';
    this.child.stderr.on('data', (data) => void (this.said += data));
  }

  ask(command, argument) {
    this.child.send({ command, argument });
    return new Promise((resolve) => this.child.once('message', ({ result }) => resolve(result)));
  }

  get url() {
    return /serves (\S+)/.exec(this.said)[1];
  }

  poll(detail) {
    return new Promise((resolve, reject) => {
      http.get(`${this.url}?detail=${detail}`, { agent: false }, (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk)).on('end', () => resolve(Buffer.concat(chunks)));
      }).on('error', reject);
    });
  }
}

const sorted = (values) => [...values].sort((a, b) => a - b);
const quantile = (values, q) => sorted(values)[Math.min(values.length - 1, Math.floor(q * values.length))];
const ms = (value) => `${value.toFixed(2)} ms`;
const cpuOf = ({ ru_utime, ru_stime }) => ru_utime + ru_stime;

/** Watches the event loop as long as a walk takes, with or without one. */
async function measure(conference, detail) {
  const [times, sizes, documents] = [[], [], []];
  const cpu = await conference.ask('cpu');
  for (let i = 0; i < POLLS; i++) {
    await conference.ask('watch');
    if (detail === undefined) {
      await sleep(100);
    } else {
      const text = await conference.poll(detail);
      const document = JSON.parse(text);
      documents.push(document);
      times.push(document.collection_ms);
      sizes.push(text.length);
    }
    await conference.ask('unwatch');
    await sleep(PAUSE_MS);
  }
  const spent = ((await conference.ask('cpu')) - cpu) / POLLS;
  const usage = documents.map(({ workers }) => cpuOf(workers[0].resource_usage));
  return { times, sizes, spent, worker: (usage.at(-1) - usage[0]) / (POLLS - 1), late: await conference.ask('late') };
}

/** What an object costs in the heap, with the agent and without. */
async function heapPerObject(withAgent) {
  const conference = new Conference(withAgent);
  await conference.ask('fill', SIZE);
  const { empty, full } = await conference.ask('heap');
  conference.child.kill('SIGKILL');
  return (full - empty) / OBJECTS;
}

const without = await heapPerObject(false);
const withAgent = await heapPerObject(true);
const { transports, consumers } = SIZE;
console.log(`${transports} transports, ${transports} producers, ${consumers} consumers; ${os.cpus().length} CPUs, Node.js ${process.version}`);
console.log(`memory: ${Math.round(withAgent - without)} bytes for each object [3072], beside ${Math.round(without)} of mediasoup's own`);

const conference = new Conference(true);
await conference.ask('fill', SIZE);
await sleep(3000);
const idle = await measure(conference, undefined);
const lateness = ({ late }) =>
  `event loop late by p50 ${ms(quantile(late, 0.5))}, p99 ${ms(quantile(late, 0.99))} [10], max ${ms(quantile(late, 1))}`;
console.log(`not polled: ${lateness(idle)}`);
const WANTED = { counts: ['', ''], producers: [' [40]', ' [1 %]'], all: [' [250]', ' [2 %]'] };
for (const [detail, [wantedTime, wantedCpu]] of Object.entries(WANTED)) {
  const measured = await measure(conference, detail);
  const { times, sizes, spent, worker } = measured;
  const cost = spent - idle.spent;
  console.log([
    `${detail}: walk median ${ms(quantile(times, 0.5))}${wantedTime}, p90 ${ms(quantile(times, 0.9))}, max ${ms(quantile(times, 1))}`,
    `  while walking: ${lateness(measured)}`,
    `  CPU of the application: ${ms(cost)} a walk, polled every ${INTERVAL_S} s ${(cost / INTERVAL_S / 10).toFixed(2)} % of a core${wantedCpu}`,
    detail === 'counts' ? undefined : `  CPU of the worker, media included: ${ms(worker)} between two walks`,
    `  document: ${Math.round(quantile(sizes, 0.5) / 1024)} KiB`,
  ].filter((line) => line !== undefined).join('\n'));
}
conference.child.kill('SIGKILL');
rmSync(root, { recursive: true });
