// What is published, and what is mounted.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { AGENT, folder, INSTALLED } from './support/application.mjs';

const FOLDER = path.dirname(AGENT);
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const manifest = JSON.parse(readFileSync(path.join(FOLDER, 'package.json'), 'utf8'));

test('the package holds what it needs and nothing else, under the version and licence of the exporter', () => {
  const [{ files }] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--silent'], { cwd: FOLDER, encoding: 'utf8' }));
  assert.deepEqual(files.map((file) => file.path).sort(), ['LICENSE', 'README.md', 'agent.d.ts', 'agent.js', 'package.json']);
  const cargo = readFileSync(path.join(ROOT, 'Cargo.toml'), 'utf8');
  assert.equal(manifest.version, /^version = "(.*)"$/m.exec(cargo)[1]);
  assert.equal(manifest.license, /^license = "(.*)"$/m.exec(cargo)[1]);
  assert.equal(readFileSync(path.join(FOLDER, 'LICENSE'), 'utf8'), readFileSync(path.join(ROOT, 'LICENSE'), 'utf8'));
  assert.equal(manifest.dependencies, undefined);
});

test('the agent fits into a ConfigMap, with room for others', () => {
  assert.ok(statSync(AGENT).size < 60 * 1024);
});

test('an application in TypeScript can tell of rooms and hand mediasoup over, and cannot tell nonsense', (t) => {
  const root = folder(t, {
    'right.ts': `
      import * as mediasoup from 'mediasoup';
      import { attach, setRooms, type Room } from '${FOLDER}/agent';
      const room: Room = { id: 'a', peers: 1 };
      setRooms([room]);
      setRooms(() => new Set([{ id: 7 }]));
      setRooms(undefined);
      attach(mediasoup);`,
    'wrong.ts': `
      import { attach, setRooms } from '${FOLDER}/agent';
      setRooms([{ peers: 1 }]);
      setRooms(async () => []);
      attach({});`,
  });
  const tsc = createRequire(path.join(INSTALLED, 'here')).resolve('typescript/bin/tsc');
  const check = (file) => {
    const options = ['--noEmit', '--strict', '--skipLibCheck', '--target', 'es2022', '--module', 'node16'];
    try {
      return execFileSync(process.execPath, [tsc, ...options, file], { cwd: root, encoding: 'utf8' });
    } catch (error) {
      return error.stdout;
    }
  };
  assert.equal(check('right.ts'), '');
  assert.deepEqual(check('wrong.ts').match(/^wrong\.ts\(\d+/gm), ['wrong.ts(3', 'wrong.ts(4', 'wrong.ts(5']);
});

test('modules import its functions by their names', () => {
  const source = `import { attach, setRooms } from '${AGENT}'; console.log(typeof attach, typeof setRooms);`;
  assert.equal(execFileSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' }), 'function function\n');
});

test('the README loads it in three ways, each from where it has put it, under one name', () => {
  const readme = readFileSync(path.join(FOLDER, 'README.md'), 'utf8');
  const found = (pattern) => pattern.exec(readme)?.slice(1);
  assert.ok(readme.includes(`node -r ${manifest.name} `), 'the package');

  const [copied] = found(/^COPY agent\.js (\S+)$/m);
  assert.deepEqual(found(/^ENV NODE_OPTIONS="--require (\S+)"$/m), [copied]);

  const [configMap, file] = found(/ create configmap (\S+) --from-file=(\S+)$/m);
  const [volume, source] = found(/^ *- name: (\S+)\n *configMap: \{ name: (\S+) \}$/m);
  const [mounted, mountPath] = found(/- \{ name: (\S+), mountPath: (\S+), readOnly: true \}$/m);
  assert.equal(file, path.basename(AGENT));
  assert.deepEqual([source, mounted], [configMap, volume]);
  assert.deepEqual(found(/- \{ name: NODE_OPTIONS, value: --require (\S+) \}$/m), [`${mountPath}/${file}`]);
});
