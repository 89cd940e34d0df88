// Runs the exporter itself, with targets from a file, and reads what Prometheus would get.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { eventually, get, soon } from './application.mjs';

/** The program that `make` has built. */
const PROGRAM = process.env.SCRAPETARGET_EXPORTER;
if (!PROGRAM) throw new Error('SCRAPETARGET_EXPORTER must be the path of the exporter: use make test-agent');

/** The manifest of a target that is called webrtc/rooms. JSON is YAML, too. */
export function target(spec) {
  const metadata = { name: 'rooms', namespace: 'webrtc' };
  return { apiVersion: 'scrapetarget.dev/v1alpha1', kind: 'ScrapeTarget', metadata, spec: { type: 'Mediasoup', ...spec } };
}

/** One answer of `/probe`. */
export class Series {
  constructor(text) {
    this.values = new Map();
    for (const line of text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))) {
      const at = line.lastIndexOf(' ');
      this.values.set(line.slice(0, at), Number(line.slice(at + 1)));
    }
  }

  /** The value of a series, whose labels are in the order that they are written in. */
  value(name, labels = {}) {
    return this.values.get(series(name, labels));
  }

  /** The families of the target: those that begin with mediasoup_. */
  get families() {
    const names = [...this.values.keys()].map((key) => key.replace(/\{.*/, ''));
    return [...new Set(names)].filter((name) => name.startsWith('mediasoup_')).sort();
  }
}

/** A series as it is written. */
export function series(name, labels) {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return pairs.length === 0 ? name : `${name}{${pairs.join(',')}}`;
}

/** A running exporter. */
export class Exporter {
  /** Starts it with these manifests, and waits until it listens. */
  static async start(t, ...manifests) {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'mediasoup-exporter-'));
    const file = path.join(folder, 'targets.yaml');
    writeFileSync(file, manifests.map((manifest) => JSON.stringify(manifest)).join('\n---\n'));
    const args = ['run', '--listen-address', '127.0.0.1:0', '--targets', file];
    const child = spawn(PROGRAM, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const ended = new Promise((resolve) => void child.once('close', resolve).once('error', resolve));
    t.after(async () => {
      child.kill('SIGKILL');
      await soon('end of the exporter', ended);
      rmSync(folder, { recursive: true, force: true });
    });
    let said = '';
    child.stderr.on('data', (data) => void (said += data));
    child.once('error', (error) => void (said += error));
    const base = await eventually('the exporter listens', () => {
      if (child.exitCode !== null || child.pid === undefined) throw new Error(`${PROGRAM} does not run: ${said}`);
      return /message=listening address=(\S+)/.exec(said)?.[1];
    });
    return new Exporter(`http://${base}`);
  }

  constructor(base) {
    this.base = base;
  }

  /** What `/probe` answers now, once the target is known. */
  async probe() {
    return eventually('an answer of the exporter', async () => {
      const { status, body } = await get(`${this.base}/probe?target=webrtc/rooms`);
      return status === 200 && new Series(body);
    });
  }

  /** What `/probe` answers of a walk of the agent that begins after this call. */
  async fresh() {
    const before = Date.now();
    return eventually('a new poll', async () => {
      const shown = await this.probe();
      return shown.value('mediasoup_snapshot_timestamp_seconds') * 1000 >= before && shown;
    });
  }
}
