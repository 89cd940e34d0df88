// The versions of Node.js that the README names: on each of them, an application on mediasoup is noticed and watched. So is a newer
// mediasoup, whose worker is not needed for that.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { AGENT, Application, folder, INSTALLED, WAITS } from './support/application.mjs';
import { server } from './support/conference.mjs';

/** Where `make` has installed them. */
const NODES = process.env.NODES_INSTALLED;
if (!NODES) throw new Error('NODES_INSTALLED must name the folder that versions of Node.js are installed in: use make test-agent');

const MAJORS = [16, 18, 20, 22, 24];

const json = (...names) => JSON.parse(readFileSync(path.join(...names), 'utf8'));

test('the oldest and the newest are those that the README and the package name', () => {
  const readme = readFileSync(path.join(path.dirname(AGENT), 'README.md'), 'utf8');
  const [, oldest, newest] = /Node\.js (\d+) to (\d+)/.exec(readme);
  assert.deepEqual([MAJORS[0], MAJORS.at(-1)], [Number(oldest), Number(newest)]);
  assert.equal(json(path.dirname(AGENT), 'package.json').engines.node, `>=${oldest}`);
});

// Newer versions of mediasoup, which can be chosen, do not run on all of them.
const leastOf = ({ engines }) => Number(/\d+/.exec(engines.node));
const least = leastOf(json(INSTALLED, 'node_modules/mediasoup/package.json'));

for (const major of MAJORS) {
  const skip = major < least && `this mediasoup needs Node.js ${least}`;
  test(`on Node.js ${major}, an application is watched, by node -r and by NODE_OPTIONS, CommonJS and modules`, { skip }, async (t) => {
    const node = path.join(NODES, String(major));
    assert.match(execFileSync(node, ['--version'], { encoding: 'utf8' }), new RegExp(`^v${major}\\.`));
    const ways = ['commonjs.js', 'modules.mjs'].flatMap((script) => [
      { script, environment: {} },
      { script, environment: { NODE_OPTIONS: `--require ${AGENT}` } },
    ]);
    await Promise.all(ways.map(async (way) => {
      const { application, worker, router } = await server(t, { node, ...way });
      await application.call(router, 'createDirectTransport', {});
      const { workers, errors } = await application.document();
      const [{ pid, resource_usage: usage, routers }] = workers;
      assert.deepEqual([pid, errors], [worker.pid, []], JSON.stringify(way));
      assert.ok(usage.ru_maxrss > 0 && routers[0].transports[0].stats.bytesSent !== undefined, 'statistics');
    }));
  });
}

const newer = json(NODES, 'node_modules/mediasoup/package.json');

test(`mediasoup ${newer.version} is noticed as it is loaded, by require and by import`, async (t) => {
  const files = {
    'required.js': WAITS,
    'imported.mjs': "await import('mediasoup'); setTimeout(() => {}, 600_000);",
    'subpath.mjs': "import 'mediasoup/types'; import { createWorker } from 'mediasoup'; setTimeout(createWorker, 2 ** 30);",
  };
  const root = folder(t, files);
  rmSync(path.join(root, 'node_modules'));
  symlinkSync(path.join(NODES, 'node_modules'), path.join(root, 'node_modules'));
  for (const major of MAJORS.filter((each) => each >= leastOf(newer))) {
    for (const script of Object.keys(files)) {
      const application = Application.start(t, { root, script, node: path.join(NODES, String(major)) });
      const { mediasoup_version: version, workers } = await application.document();
      assert.deepEqual([version, workers], [newer.version, []], `${script} on Node.js ${major}`);
      await application.kill();
    }
  }
});
