'use strict';
// The mediasoup agent: statistics of any Node.js application on mediasoup 3, without a change to the application.
//
// mediasoup is a library without an API to poll. This file is loaded before the application (`node -r`), detects when the
// application loads mediasoup, keeps an index of its live objects, and answers `GET /stats` with the document `mediasoup-stats/v1`.
//
// It runs inside the application. It must never throw into it, block its event loop, keep it alive, or flood its media workers with
// requests; and no data that its users did not allow may leave the process. It is one file without dependencies, so that it can
// be mounted from a ConfigMap.
//
// From top to bottom: limits, settings, log, book, privacy, document, walk, server, finding mediasoup, start.
//
// In most processes that NODE_OPTIONS reaches (npm, shells' one-liners, threads of loggers) mediasoup is never loaded. What only
// a serving agent needs is therefore required where it is needed.

const fs = require('fs');
const { createRequire } = require('module');
const path = require('path');
const { performance } = require('perf_hooks');
const threads = require('worker_threads');
const { AsyncResource } = require('async_hooks');
// Captured now, because applications under test replace the global ones.
const { clearTimeout, setImmediate, setInterval, setTimeout } = require('timers');
const unixTime = Date.now;
const now = performance.now.bind(performance);
const { stringify } = JSON;

const NAME = 'scrapetarget-mediasoup-agent';
const SCHEMA = 'mediasoup-stats/v1';
const PREFIX = 'SCRAPETARGET_AGENT_';
const STANDARD_ERROR = 2;

// ---------------------------------------------------------------------------------------------------------------- limits

/** Requests that one worker may have to answer at a time. It is single-threaded, and media waits behind each of them. */
const REQUESTS_PER_WORKER = 16;
/** Requests to all workers together: this thread reads their answers, and should not find too many at once. */
const REQUESTS = 32;
/** How long a walk computes before it yields to the application. */
const SLICE_MS = 2;
/** How long the last document answers further requests: twenty pollers must not cost twenty walks. */
const REUSE_MS = 500;
const MAX_ERRORS = 1000;
const MAX_ROOMS = 10000;
/** Maximum length of a text from the application or from an error. */
const MAX_TEXT = 256;
/** Size at which the text of a document is cut, to be sent piece by piece. */
const CHUNK_BYTES = 64 * 1024;

const MAX_CONNECTIONS = 64;
/** How long a connection may be idle before it is closed for a new one: connections that stay open must not block a poller. */
const SILENCE_MS = 500;
/** A client that does not read, or reads a byte a second, is disconnected. */
const IDLE_CONNECTION_MS = 10000;
const LONGEST_CONNECTION_MS = 30000;

/** When to retry if listening fails, for example because the port is in use. */
const RETRY_MS = 5000;
/** How often files of secrets are read again: certificates are renewed and tokens rotated while applications run. */
const RELOAD_MS = 60000;
const MAX_SECRET_BYTES = 1024 * 1024;
/** How many ports above the configured one the processes of a cluster, or threads, may take. */
const PORT_RANGE = 64;

// -------------------------------------------------------------------------------------------------------------- settings

const DETAILS = ['counts', 'producers', 'all'];
const ADDRESSES = ['drop', 'deidentify', 'hash', 'plain'];
const LEVELS = ['silent', 'warn', 'info', 'debug'];

const oneOf = (allowed) => (text) => {
  const found = allowed.find((value) => value === text.toLowerCase());
  if (found === undefined) throw new Error(`must be one of ${allowed.join(', ')}`);
  return found;
};

const flag = (text) => oneOf(['true', 'false'])(text) === 'true';

const integer = (least, most) => (text) => {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  if (!(value >= least && value <= most)) throw new Error(`must be a whole number from ${least} to ${most}`);
  return value;
};

function port(text) {
  // Kubernetes sets this in every container of a namespace with a Service called scrapetarget-agent.
  if (/^(tcp|udp|sctp):\/\//.test(text)) return undefined;
  return integer(0, 65535)(text);
}

function host(text) {
  if (text !== 'localhost' && require('net').isIP(text) === 0) throw new Error('must be an IP address, such as :: or 0.0.0.0');
  return text;
}

function token(text) {
  const value = text.trim();
  if (value === '') throw new Error('is empty');
  if (!/^[\x21-\x7e]+$/.test(value)) throw new Error('must consist of visible ASCII characters, without spaces');
  return value;
}

function file(text) {
  if (text === '') throw new Error('is empty');
  return path.resolve(text);
}

function keys(text) {
  const list = text.split(',').map((key) => key.trim()).filter((key) => key !== '');
  if (list.some((key) => !/^\w{1,64}$/.test(key))) throw new Error('must be names of properties with commas between them');
  return [...new Set(list)];
}

/**
 * The settings, by the rest of the variable's name. An invalid value is logged and the default is used; but an invalid value of a
 * setting that is `closed` must not expose anything: then nothing is served.
 */
const SETTINGS = {
  ENABLED: { read: flag, standard: true },
  LOG: { read: oneOf(LEVELS), standard: 'info' },
  MEDIASOUP: { read: file },
  HOST: { read: host, standard: '127.0.0.1' },
  PORT: { read: port, standard: 9851 },
  ALLOW_ANONYMOUS: { read: flag, standard: false },
  TOKEN: { read: token, closed: true },
  TOKEN_FILE: { read: file, closed: true },
  TLS_CERT_FILE: { read: file, closed: true },
  TLS_KEY_FILE: { read: file, closed: true },
  TLS_CLIENT_CA_FILE: { read: file, closed: true },
  APP_DATA: { read: keys, standard: [] },
  ADDRESSES: { read: oneOf(ADDRESSES), standard: 'drop' },
  DEADLINE_MS: { read: integer(100, 60000), standard: 4000 },
};

/** The settings, with a message for each mistake; `closed` if one of them prevents serving. */
function readSettings(env) {
  const settings = {};
  const mistakes = [];
  let closed = false;
  const reject = (name, sentence, isClosed) => {
    mistakes.push(`${PREFIX}${name} ${sentence}`);
    closed = closed || Boolean(isClosed);
  };
  for (const [name, { read, standard, closed: isClosed }] of Object.entries(SETTINGS)) {
    settings[name] = standard;
    const text = env[PREFIX + name]?.trim();
    if (text === undefined) continue;
    try {
      const value = read(text);
      if (value !== undefined) settings[name] = value;
    } catch (error) {
      const harmless = standard === undefined || Array.isArray(standard) ? 'it is ignored' : `${standard} is used`;
      reject(name, `${error.message}: ${isClosed ? 'nothing is served' : harmless}`, isClosed);
    }
  }
  for (const name of Object.keys(env)) {
    const rest = name.startsWith(PREFIX) ? name.slice(PREFIX.length) : undefined;
    // Variables that Kubernetes adds for Services whose names begin with scrapetarget-agent are not mistakes.
    const isKnown = rest === undefined || rest in SETTINGS || /(^|_)(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)/.test(rest);
    if (!isKnown) reject(rest, 'is not known: it is ignored');
  }
  if (settings.TOKEN !== undefined && settings.TOKEN_FILE !== undefined) {
    reject('TOKEN_FILE', `cannot be used together with ${PREFIX}TOKEN: nothing is served`, true);
  }
  if ((settings.TLS_CERT_FILE === undefined) !== (settings.TLS_KEY_FILE === undefined)) {
    reject('TLS_CERT_FILE', `and ${PREFIX}TLS_KEY_FILE need each other: nothing is served`, true);
  } else if (settings.TLS_CLIENT_CA_FILE !== undefined && settings.TLS_CERT_FILE === undefined) {
    reject('TLS_CLIENT_CA_FILE', `needs ${PREFIX}TLS_CERT_FILE and ${PREFIX}TLS_KEY_FILE: nothing is served`, true);
  }
  const guarded = settings.TOKEN ?? settings.TOKEN_FILE ?? settings.TLS_CERT_FILE;
  if (!isLoopback(settings.HOST) && guarded === undefined && !settings.ALLOW_ANONYMOUS) {
    const ways = `${PREFIX}TOKEN, TLS files, or ${PREFIX}ALLOW_ANONYMOUS=true`;
    reject('HOST', `is ${settings.HOST}, which others can reach, and needs ${ways}: ${SETTINGS.HOST.standard} is used`);
    settings.HOST = SETTINGS.HOST.standard;
  }
  return { settings, mistakes, closed };
}

function isLoopback(address) {
  return address === 'localhost' || address === '::1' || /^(::ffff:)?127\./i.test(address);
}

// ------------------------------------------------------------------------------------------------------------------- log

/** Log lines for the operator of the application, on standard error. Neither secrets nor statistics are written. */
class Log {
  constructor(agent) {
    this.agent = agent;
    this.said = new Set();
    this.last = Promise.resolve();
  }

  write(level, line) {
    if (LEVELS.indexOf(level) > LEVELS.indexOf(this.agent.settings.LOG)) return;
    const text = `${NAME}: ${level === 'warn' ? 'warning' : level}: ${line.replace(/\s+/g, ' ')}\n`;
    // Not through process.stderr or a console: if the reader has closed it, an error event would terminate the application.
    this.last = this.last.then(() => new Promise((resolve) => fs.write(STANDARD_ERROR, text, () => resolve()))).catch(() => {});
  }

  /** Writes the first line of each topic; further lines are for debugging. */
  once(topic, level, line) {
    this.write(this.said.has(topic) ? 'debug' : level, line);
    this.said.add(topic);
  }

  /** The next line of this topic is written again. */
  settled(topic) {
    this.said.delete(topic);
  }
}

// ------------------------------------------------------------------------------------------------------------------ book

/** The kinds of objects, as errors and lifetime counters name them. */
const KINDS = ['worker', 'router', 'transport', 'producer', 'consumer', 'data_producer', 'data_consumer'];
/** The states that can be entered. */
const ICE_STATES = ['connected', 'completed', 'disconnected'];
const DTLS_STATES = ['connecting', 'connected', 'failed', 'closed'];

/**
 * The live objects of mediasoup, and counters of closed ones. mediasoup has no list of its objects: each is announced once, when it
 * is created. Only weak references are kept, so that the agent never keeps a closed object in memory.
 *
 * Every handler runs inside a call of the application, before the application's own handlers, so none of them may throw.
 */
class Book {
  constructor(log) {
    this.log = log;
    this.workers = new Set();
    this.seen = new WeakSet();
    this.lifetime = {};
    for (const kind of KINDS) {
      this.lifetime[`${kind}s_created`] = 0;
      this.lifetime[`${kind}s_closed`] = 0;
    }
    this.lifetime.workers_died = 0;
    for (const state of ICE_STATES) this.lifetime[`ice_state_${state}`] = 0;
    for (const state of DTLS_STATES) this.lifetime[`dtls_state_${state}`] = 0;
  }

  count(name) {
    this.lifetime[name] = (this.lifetime[name] ?? 0) + 1;
  }

  on(emitter, event, handle) {
    emitter.on(event, (argument) => {
      try {
        handle(argument);
      } catch (error) {
        this.log.once('book', 'warn', `cannot keep track of ${event}: ${sentence(error)}`);
      }
    });
  }

  /** Enters a new object among its siblings, until it closes. */
  enter(kind, object, siblings, properties) {
    const entry = { kind, weak: new WeakRef(object), createdMs: unixTime(), closed: false, ...properties };
    siblings.add(entry);
    this.count(`${kind}s_created`);
    this.on(object.observer, 'close', () => this.close(entry, siblings));
    return entry;
  }

  close(entry, siblings) {
    if (entry.closed) return;
    entry.closed = true;
    siblings.delete(entry);
    this.count(`${entry.kind}s_closed`);
  }

  /** The live objects among siblings, each with its entry, as nodes that a walk fills. */
  *live(siblings) {
    for (const entry of siblings) {
      const object = entry.weak.deref();
      // The application may have removed our handler together with its own.
      if (object !== undefined && !object.closed) yield { entry, object };
      else this.close(entry, siblings);
    }
  }

  watch(mediasoup) {
    if (this.seen.has(mediasoup.observer)) return;
    this.seen.add(mediasoup.observer);
    this.mediasoup ??= mediasoup;
    this.on(mediasoup.observer, 'newworker', (worker) => this.watchWorker(worker));
  }

  watchWorker(worker) {
    const entry = this.enter('worker', worker, this.workers, { routers: new Set(), pending: 0 });
    this.on(worker, 'died', () => this.count('workers_died'));
    this.on(worker.observer, 'newrouter', (router) => this.watchRouter(router, entry.routers));
  }

  watchRouter(router, siblings) {
    const entry = this.enter('router', router, siblings, { transports: new Set() });
    this.on(router.observer, 'newtransport', (transport) => this.watchTransport(transport, entry.transports));
  }

  watchTransport(transport, siblings) {
    const children = { producer: new Set(), consumer: new Set(), data_producer: new Set(), data_consumer: new Set() };
    this.enter('transport', transport, siblings, { children });
    for (const [kind, set] of Object.entries(children)) {
      this.on(transport.observer, `new${kind.replace('_', '')}`, (object) => this.enter(kind, object, set));
    }
    this.on(transport.observer, 'icestatechange', (state) => this.count(`ice_state_${state}`));
    this.on(transport.observer, 'dtlsstatechange', (state) => this.count(`dtls_state_${state}`));
  }
}

// --------------------------------------------------------------------------------------------------------------- privacy

/** What may leave the process. Dumps of mediasoup objects contain keys and passwords, and are never read. */
class Privacy {
  constructor(agent) {
    this.agent = agent;
  }

  /** The fields of `appData` that the operator listed. */
  app(object) {
    const { APP_DATA: keys } = this.agent.settings;
    if (keys.length === 0) return undefined;
    const data = object.appData;
    if (data === null || typeof data !== 'object') return undefined;
    let app;
    for (const key of keys) {
      // A getter would run code of the application at an unexpected time.
      const value = Object.getOwnPropertyDescriptor(data, key)?.value;
      if (!['string', 'number', 'boolean'].includes(typeof value)) continue;
      app ??= {};
      app[key] = typeof value === 'string' ? value.slice(0, MAX_TEXT) : value;
    }
    return app;
  }

  /** Statistics of a transport without the data that identifies its client. */
  transport(stats) {
    const shown = plain(stats, ['type', 'transportId', 'iceRole', 'iceState', 'dtlsState', 'sctpState']);
    for (const key of ['iceSelectedTuple', 'tuple', 'rtcpTuple']) {
      if (stats?.[key] !== null && typeof stats?.[key] === 'object') shown[key] = this.tuple(stats[key]);
    }
    return shown;
  }

  tuple(tuple) {
    const { ADDRESSES: addresses } = this.agent.settings;
    const shown = plain(tuple, ['localAddress', 'localIp', 'protocol', 'remoteAddress', 'remoteIp']);
    for (const [key, value] of Object.entries(shown)) {
      if (!key.startsWith('remote') || addresses === 'plain') continue;
      if (addresses === 'drop') delete shown[key];
      else if (typeof value === 'string') shown[key] = this.address(value);
    }
    return shown;
  }

  address(text) {
    const address = text.replace(/%.*$/, '').replace(/^::ffff:(?=[\d.]+$)/i, '').toLowerCase();
    if (this.agent.settings.ADDRESSES === 'hash') {
      const { createHmac, randomBytes } = require('crypto');
      // Without a key, or with one that leaves the process, trying every address would find the one that was hashed.
      this.hashKey ??= randomBytes(32);
      return createHmac('sha256', this.hashKey).update(address).digest('hex').slice(0, 16);
    }
    if (/^[\d.]+$/.test(address)) return address.replace(/^\d+\.\d+\./, 'xx.xx.');
    const last = address.slice(address.lastIndexOf(':') + 1).replace(/^0+(?=.)/, '');
    return `xx::${/^[\da-f]+$/.test(last) ? last : '0'}`;
  }

  /** Statistics of a data producer or consumer without the channel name that its client chose. */
  data(stats) {
    return plain(stats, ['type']);
  }

  /** Statistics of a stream without the names that its client chose for its encodings (`rid`). */
  stream(stats) {
    const shown = plain(stats, ['type', 'kind', 'mimeType']);
    if (stats?.bitrateByLayer !== undefined) shown.bitrateByLayer = plain(stats.bitrateByLayer, []);
    return shown;
  }

  /** The score of one encoding, or of a consumer with those of its producer. */
  score(score) {
    const shown = plain(score, []);
    if (Array.isArray(score?.producerScores)) shown.producerScores = score.producerScores.filter((each) => typeof each === 'number');
    return shown;
  }
}

/** Numbers and flags, and only the texts that mediasoup itself chose: fields of later versions may identify a client. */
function plain(object, texts) {
  const shown = {};
  for (const [key, value] of Object.entries(object ?? {})) {
    const isPlain = typeof value === 'number' || typeof value === 'boolean' || (typeof value === 'string' && texts.includes(key));
    if (isPlain) shown[key] = value;
  }
  return shown;
}

// -------------------------------------------------------------------------------------------------------------- document

/** Which of the four kinds it is. The names of classes change between versions, and `type` exists only since 3.15. */
function transportType(transport) {
  if (typeof transport.type === 'string') return transport.type;
  if ('iceState' in transport) return 'webrtc';
  if ('rtcpTuple' in transport) return 'plain';
  if ('tuple' in transport) return 'pipe';
  return 'sendRtcp' in transport ? 'direct' : 'unknown';
}

/** The fields of a transport that are known without a request to its worker. */
function knownStates({ iceState, dtlsState, sctpState }) {
  return { iceState, dtlsState, sctpState };
}

/** What producers and consumers have in common. */
function media({ kind, type, rtpParameters }) {
  const codec = rtpParameters?.codecs?.[0];
  return { kind, type, codec: codec?.mimeType, clock_rate: codec?.clockRate };
}

/** The members of each kind of object, except its lists. `answer` is that of the worker, if it was requested and received. */
const MEMBERS = {
  worker: ({ object, entry, answer, rssBytes }) => ({
    pid: object.pid,
    created_ms: entry.createdMs,
    rss_bytes: rssBytes,
    resource_usage: answer && plain(answer, []),
  }),
  router: ({ object, entry }, privacy) => ({
    id: object.id,
    created_ms: entry.createdMs,
    app: privacy.app(object),
  }),
  transport: ({ object, entry, answer }, privacy) => ({
    id: object.id,
    type: transportType(object),
    created_ms: entry.createdMs,
    app: privacy.app(object),
    stats: answer?.[0] === undefined ? knownStates(object) : privacy.transport(answer[0]),
  }),
  producer: ({ object, entry, answer }, privacy) => ({
    id: object.id,
    ...media(object),
    created_ms: entry.createdMs,
    paused: object.paused,
    score: object.score?.map((each) => privacy.score(each)),
    app: privacy.app(object),
    streams: answer?.map((stats) => privacy.stream(stats)),
  }),
  consumer: ({ object, entry, answer }, privacy) => ({
    id: object.id,
    producer_id: object.producerId,
    ...media(object),
    created_ms: entry.createdMs,
    paused: object.paused,
    producer_paused: object.producerPaused,
    priority: object.priority,
    score: privacy.score(object.score),
    preferred_layers: object.preferredLayers && plain(object.preferredLayers, []),
    current_layers: object.currentLayers && plain(object.currentLayers, []),
    app: privacy.app(object),
    // The others repeat what the producer says of its streams.
    streams: answer?.filter((stats) => stats.type !== 'inbound-rtp').map((stats) => privacy.stream(stats)),
  }),
  data_producer: ({ object, entry, answer }, privacy) => ({
    id: object.id,
    type: object.type,
    created_ms: entry.createdMs,
    app: privacy.app(object),
    stats: answer && privacy.data(answer[0]),
  }),
  data_consumer: ({ object, entry, answer }, privacy) => ({
    id: object.id,
    type: object.type,
    data_producer_id: object.dataProducerId,
    created_ms: entry.createdMs,
    app: privacy.app(object),
    stats: answer && privacy.data(answer[0]),
  }),
};

/** The lists in a transport, in their order, and the minimum detail at which their statistics are requested from the worker. */
const CHILDREN = [
  { kind: 'producer', list: 'producers', from: 'producers' },
  { kind: 'consumer', list: 'consumers', from: 'all' },
  { kind: 'data_producer', list: 'data_producers', from: 'producers' },
  { kind: 'data_consumer', list: 'data_consumers', from: 'all' },
];

function includes(detail, other) {
  return DETAILS.indexOf(detail) >= DETAILS.indexOf(other);
}

/** A JSON object that more members can follow. */
function opened(members) {
  return stringify(members).slice(0, -1);
}

/** The text of a document, in chunks that are shared by all its responses. */
class Text {
  constructor() {
    this.chunks = [];
    this.length = 0;
    this.tail = '';
  }

  add(text) {
    this.tail += text;
    if (this.tail.length >= CHUNK_BYTES) this.flush();
  }

  flush() {
    const chunk = Buffer.from(this.tail);
    this.chunks.push(chunk);
    this.length += chunk.length;
    this.tail = '';
  }
}

/** The message of an error; any value may have been thrown. */
function sentence(error) {
  return said(() => (error instanceof Error ? error.message : error));
}

function nameOf(error) {
  return said(() => error?.name);
}

function said(get) {
  try {
    return String(get()).slice(0, MAX_TEXT);
  } catch {
    return 'unknown';
  }
}

// ------------------------------------------------------------------------------------------------------------------ walk

/**
 * One collection of all statistics. It goes through the index, queries the workers, a few requests at a time, and writes the document.
 * An object that closes after it was listed is an error in the document, not one of the walk. So is a worker that does not answer
 * before the deadline: the objects below it are shown without statistics.
 */
class Walk {
  constructor(agent, detail) {
    this.agent = agent;
    this.detail = detail;
    this.errors = [];
    this.timestampMs = unixTime();
    this.begun = now();
    this.sliceBegun = this.begun;
    this.over = false;
  }

  /** The document. */
  async run() {
    let timer;
    const deadline = new Promise((resolve) => {
      timer = setTimeout(resolve, this.agent.settings.DEADLINE_MS).unref();
    });
    const workers = await this.survey();
    const share = Math.max(2, Math.floor(REQUESTS / Math.max(1, workers.length)));
    const lanes = Math.min(share, REQUESTS_PER_WORKER);
    await Promise.all(workers.map((worker) => this.ask(worker, lanes, deadline)));
    clearTimeout(timer);
    this.over = true;
    return this.write(workers);
  }

  /** All live objects as a tree of nodes, to which the answers are added. */
  async survey() {
    const { book } = this.agent;
    const nodes = (siblings) => Array.from(book.live(siblings));
    const workers = nodes(book.workers);
    for (const worker of workers) {
      worker.routers = nodes(worker.entry.routers);
      for (const router of worker.routers) {
        router.transports = nodes(router.entry.transports);
        for (const transport of router.transports) {
          for (const { kind, list } of CHILDREN) transport[list] = nodes(transport.entry.children[kind]);
          await this.breathe();
        }
        await this.breathe();
      }
    }
    return workers;
  }

  /** Sends all requests to one worker, with at most as many at a time as there are lanes. */
  async ask(worker, lanes, deadline) {
    const free = Math.min(lanes, REQUESTS_PER_WORKER - worker.entry.pending);
    if (free <= 0) {
      this.fail(worker, 'Unresponsive', 'requests of earlier walks are still unanswered');
      return;
    }
    const questions = this.questions(worker);
    let asked = 0;
    let settled = 0;
    const lane = async () => {
      while (asked < questions.length && !this.over) {
        await questions[asked++]();
        settled++;
        await this.breathe();
      }
    };
    await Promise.race([Promise.all(Array.from({ length: free }, lane)), deadline]);
    if (settled < questions.length) {
      const missing = questions.length - settled;
      this.fail(worker, 'DeadlineExceeded', `${missing} of ${questions.length} requests were not answered in time`);
    }
  }

  /** The requests to a worker. None of them rejects: errors are recorded. */
  questions(worker) {
    const questions = [() => this.request(worker, worker, 'getResourceUsage'), () => this.residentMemory(worker)];
    if (!includes(this.detail, 'producers')) return questions;
    const lists = CHILDREN.filter(({ from }) => includes(this.detail, from)).map(({ list }) => list);
    const one = async (node) => {
      await this.request(worker, node, 'getStats');
      // Serialized immediately, so that the work is spread over the answers, and the answers need not be kept.
      this.head(node);
      node.answer = undefined;
    };
    for (const { transports } of worker.routers) {
      for (const transport of transports) {
        questions.push(() => one(transport));
        for (const list of lists) {
          for (const node of transport[list]) questions.push(() => one(node));
        }
      }
    }
    return questions;
  }

  async request(worker, node, method) {
    if (node.entry.closed) return;
    worker.entry.pending++;
    try {
      node.answer = await node.object[method]();
    } catch (error) {
      if (!node.entry.closed) this.fail(node, nameOf(error), sentence(error));
    } finally {
      worker.entry.pending--;
    }
  }

  async residentMemory(worker) {
    try {
      const status = await fs.promises.readFile(`/proc/${worker.object.pid}/status`, 'latin1');
      const kibibytes = /^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1];
      if (kibibytes !== undefined) worker.rssBytes = Number(kibibytes) * 1024;
    } catch {
      // It has just ended, or this is not Linux.
    }
  }

  /** Yields to the application if this walk has computed for a while. */
  async breathe() {
    if (now() - this.sliceBegun < SLICE_MS) return;
    // Not unreferenced: the event loop does not wake up for an immediate that is.
    await new Promise((resolve) => void setImmediate(resolve));
    this.sliceBegun = now();
  }

  /** Records an error of an object; one reason is enough. */
  fail(node, error, message) {
    if (node.failed) return;
    node.failed = true;
    const { entry, object } = node;
    this.note(entry.kind, String(entry.kind === 'worker' ? object.pid : object.id), error, message);
  }

  note(object, id, error, message) {
    if (this.errors.length < MAX_ERRORS) this.errors.push({ object, id, error, message });
  }

  async write(workers) {
    const { book, startedMs } = this.agent;
    const rooms = this.rooms();
    const text = new Text();
    text.add(opened({
      schema: SCHEMA,
      mediasoup_version: String(book.mediasoup?.version ?? 'unknown'),
      pid: process.pid,
      timestamp_ms: this.timestampMs,
      started_ms: startedMs,
      lifetime: book.lifetime,
      rooms,
    }));
    await this.list(text, 'workers', workers, (worker) =>
      this.list(text, 'routers', worker.routers, (router) =>
        this.list(text, 'transports', router.transports, async (transport) => {
          for (const { list } of CHILDREN) await this.list(text, list, transport[list]);
        })));
    const collectionMs = Math.round((now() - this.begun) * 1000) / 1000;
    text.add(`,"errors":${stringify(this.errors)},"collection_ms":${collectionMs}}\n`);
    text.flush();
    return text;
  }

  /** Adds a list of those nodes that are still alive, each with what `below` adds to it. */
  async list(text, name, nodes, below) {
    text.add(`,"${name}":[`);
    let separator = '';
    for (const node of nodes) {
      const head = this.head(node);
      if (head === undefined) continue;
      text.add(separator + head);
      if (below !== undefined) await below(node);
      text.add('}');
      separator = ',';
      await this.breathe();
    }
    text.add(']');
  }

  /** The beginning of a node's text, or nothing if it has closed; then all objects below it are omitted, too. */
  head(node) {
    const { entry } = node;
    if (entry.closed) {
      this.fail(node, 'NotFoundError', 'closed during the walk');
      return undefined;
    }
    try {
      node.text ??= opened(MEMBERS[entry.kind](node, this.agent.privacy));
    } catch (error) {
      this.fail(node, nameOf(error), sentence(error));
    }
    return node.text;
  }

  /** The rooms that the application reported. */
  rooms() {
    const { rooms } = this.agent;
    if (rooms === undefined) return undefined;
    try {
      const told = typeof rooms === 'function' ? rooms() : rooms;
      if (typeof told?.then === 'function') {
        // If it rejects, there is no other handler, and the unhandled rejection would terminate the application.
        told.then(undefined, () => {});
        throw new TypeError('rooms must be told at once, not by a promise');
      }
      const list = [];
      for (const { id, peers } of told) {
        if (list.length === MAX_ROOMS) break;
        if (typeof id !== 'string' && typeof id !== 'number') throw new TypeError('a room has no id');
        list.push({ id: String(id).slice(0, MAX_TEXT), peers: Number.isFinite(peers) ? peers : undefined });
      }
      return list;
    } catch (error) {
      this.note('rooms', '', nameOf(error), sentence(error));
      return undefined;
    }
  }
}

/** The walks of an agent: one at a time, and a recent document is reused. */
class Walks {
  constructor(agent) {
    this.agent = agent;
    this.latest = new Map();
    this.last = Promise.resolve();
  }

  /** A document with this detail, from a walk that is running, has just ended, or starts now. */
  document(detail) {
    let document = this.latest.get(detail);
    if (document === undefined) {
      document = this.last.then(() => new Walk(this.agent, detail).run());
      this.latest.set(detail, document);
      // In any case, the next walk can start.
      this.last = document.then(() => this.keep(detail), () => this.latest.delete(detail));
    }
    return document;
  }

  keep(detail) {
    setTimeout(() => this.latest.delete(detail), REUSE_MS).unref();
  }
}

// ---------------------------------------------------------------------------------------------------------------- server

/** The secrets in files, which are read again periodically. */
class Secrets {
  constructor(settings) {
    this.settings = settings;
    this.digest = settings.TOKEN === undefined ? undefined : digestOf(settings.TOKEN);
    this.tls = undefined;
  }

  /** Reads all files. Rejects if one of them cannot be used, and changes nothing then. */
  async load() {
    const { TOKEN_FILE, TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE } = this.settings;
    const read = async (name) => {
      if (name === undefined) return undefined;
      // Reading a pipe or a device may never finish, and would then keep the process from exiting.
      const status = await fs.promises.stat(name);
      if (!status.isFile() || status.size > MAX_SECRET_BYTES) throw new Error(`${name} is not a file of at most 1 MiB`);
      return fs.promises.readFile(name);
    };
    const [text, cert, key, ca] = await Promise.all([TOKEN_FILE, TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE].map(read));
    let digest;
    if (text !== undefined) {
      try {
        digest = digestOf(token(text.toString()));
      } catch (error) {
        throw new Error(`the token in ${TOKEN_FILE} ${error.message}`);
      }
    }
    const tls = cert && { cert, key, ca };
    if (tls) {
      try {
        require('tls').createSecureContext(tls);
      } catch (error) {
        throw new Error(`cannot use ${TLS_CERT_FILE} with ${TLS_KEY_FILE}: ${sentence(error)}`);
      }
    }
    this.digest = digest ?? this.digest;
    this.tls = tls;
  }

  /** Whether a request with this header is authorized. The comparison takes constant time. */
  allow(authorization) {
    if (this.digest === undefined) return true;
    const [, given] = /^Bearer +(\S+) *$/i.exec(authorization ?? '') ?? [];
    return given !== undefined && require('crypto').timingSafeEqual(digestOf(given), this.digest);
  }
}

function digestOf(text) {
  return require('crypto').createHash('sha256').update(text).digest();
}

/** Answers `GET /stats`. It does not keep the process alive. */
class Server {
  constructor(agent) {
    this.agent = agent;
    this.secrets = new Secrets(agent.settings);
    this.ports = portsOf(agent.settings.PORT);
    this.next = 0;
    this.connections = 0;
    /** The connections without a request so far, the oldest first. */
    this.silent = new Map();
  }

  /** Starts to serve, now or as soon as it is possible. */
  async start() {
    const { log } = this.agent;
    if (this.ports.length === 0) {
      // Without a port, Node.js would choose a free one.
      log.write('warn', `${PREFIX}PORT leaves no port above it for a process of a cluster or a thread: nothing is served`);
      return;
    }
    try {
      await this.secrets.load();
      this.create();
      this.listen();
    } catch (error) {
      log.once('serve', 'warn', `cannot serve, and tries again every ${RETRY_MS / 1000} s: ${sentence(error)}`);
      setTimeout(() => this.start(), RETRY_MS).unref();
    }
  }

  create() {
    const { tls } = this.secrets;
    const handler = (request, response) => void this.answer(request, response).catch(() => response.destroy());
    const options = { ...tls, requestCert: tls?.ca !== undefined, rejectUnauthorized: tls?.ca !== undefined };
    this.server = tls ? require('https').createServer(options, handler) : require('http').createServer(options, handler);
    Object.assign(this.server, {
      headersTimeout: IDLE_CONNECTION_MS,
      requestTimeout: IDLE_CONNECTION_MS,
      timeout: IDLE_CONNECTION_MS,
    });
    this.server.on('connection', (socket) => this.accept(socket));
    this.server.on('clientError', (error, socket) => socket.destroy());
    this.server.on('listening', () => this.listening());
    this.server.on('error', (error) => this.blocked(error));
  }

  accept(socket) {
    socket.unref();
    socket.on('error', () => socket.destroy());
    if (this.connections >= MAX_CONNECTIONS && !this.dismissSilent()) {
      socket.destroy();
      return;
    }
    const peer = peerOf(socket);
    this.connections++;
    this.silent.set(peer, { socket, sinceMs: now() });
    const end = setTimeout(() => socket.destroy(), LONGEST_CONNECTION_MS).unref();
    socket.once('close', () => {
      this.connections--;
      if (this.silent.get(peer)?.socket === socket) this.silent.delete(peer);
      clearTimeout(end);
    });
  }

  /** Closes the connection that has been idle longest, if that is too long. */
  dismissSilent() {
    const [oldest] = this.silent;
    if (oldest === undefined) return false;
    const [peer, { socket, sinceMs }] = oldest;
    if (now() - sinceMs < SILENCE_MS) return false;
    this.silent.delete(peer);
    socket.destroy();
    return true;
  }

  listen() {
    try {
      // Without `exclusive`, the children of a cluster would share one port, and each request would reach a different one.
      this.server.listen({ host: this.agent.settings.HOST, port: this.ports[this.next], exclusive: true });
      this.server.unref();
    } catch (error) {
      this.blocked(error);
    }
  }

  listening() {
    const { log, settings, book } = this.agent;
    const { address, family, port: bound } = this.server.address();
    const shown = family === 'IPv6' || family === 6 ? `[${address}]` : address;
    log.settled('serve');
    log.write('info', `serves http${this.secrets.tls ? 's' : ''}://${shown}:${bound}/stats (mediasoup ${book.mediasoup?.version})`);
    if (!isLoopback(settings.HOST) && this.secrets.digest === undefined && this.secrets.tls?.ca === undefined) {
      log.write('warn', `everyone who can reach ${shown}:${bound} can read the statistics: ${PREFIX}TOKEN would prevent it`);
    }
    if (this.secrets.tls || settings.TOKEN_FILE) setInterval(() => void this.reload(), RELOAD_MS).unref();
  }

  /** The port, or one of several, is not available. */
  blocked(error) {
    const { log } = this.agent;
    if (this.server.listening) {
      // A connection could not be accepted for lack of file descriptors: a later one may succeed.
      log.once('accept', 'warn', `cannot accept a connection: ${sentence(error)}`);
      return;
    }
    this.next = (this.next + 1) % this.ports.length;
    if (this.next !== 0) {
      this.listen();
      return;
    }
    log.once('serve', 'warn', `cannot listen, and tries again every ${RETRY_MS / 1000} s: ${sentence(error)}`);
    setTimeout(() => this.listen(), RETRY_MS).unref();
  }

  async reload() {
    const { log } = this.agent;
    try {
      await this.secrets.load();
      if (this.secrets.tls) this.server.setSecureContext(this.secrets.tls);
      log.settled('reload');
    } catch (error) {
      log.once('reload', 'warn', `goes on with the secrets it has: ${sentence(error)}`);
    }
  }

  async answer(request, response) {
    try {
      request.resume();
      this.silent.delete(peerOf(request.socket));
      response.on('error', () => response.destroy());
      // Polls are infrequent: keeping a connection open costs more than opening a new one.
      response.setHeader('Connection', 'close');
      response.setHeader('Cache-Control', 'no-store');
      if (!this.secrets.allow(request.headers.authorization)) {
        response.setHeader('WWW-Authenticate', 'Bearer');
        refuse(response, 401, 'the header Authorization: Bearer TOKEN is missing or wrong');
        return;
      }
      if (!this.isMeant(request.headers.host)) {
        refuse(response, 421, 'the header Host must be an address or localhost');
        return;
      }
      const [target, query] = request.url.split('?', 2);
      const detail = new URLSearchParams(query).get('detail') ?? 'all';
      if (target !== '/stats') refuse(response, 404, 'only /stats is served');
      else if (request.method !== 'GET') refuse(response.setHeader('Allow', 'GET'), 405, 'only GET is answered');
      else if (!DETAILS.includes(detail)) refuse(response, 400, `detail must be one of ${DETAILS.join(', ')}`);
      else await this.serve(response, detail);
    } catch (error) {
      this.agent.log.once('answer', 'warn', `cannot answer a request: ${sentence(error)}`);
      if (!response.headersSent) refuse(response, 500, 'the agent failed');
      else response.destroy();
    }
  }

  /**
   * Whether the Host header names this host. If only this host can connect, without a token, a page in a browser on it could send
   * requests after DNS rebinding: the name of its server may resolve to 127.0.0.1 after it was loaded.
   */
  isMeant(host) {
    const { HOST, ALLOW_ANONYMOUS } = this.agent.settings;
    if (!isLoopback(HOST) || ALLOW_ANONYMOUS || this.secrets.digest !== undefined || this.secrets.tls?.ca !== undefined) return true;
    const name = (host ?? '').replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1').toLowerCase();
    return name === '' || name === 'localhost' || require('net').isIP(name) !== 0;
  }

  async serve(response, detail) {
    const { chunks, length } = await this.agent.walks.document(detail);
    const { Readable, pipeline } = require('stream');
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': length });
    // A client that disconnects is not an error.
    pipeline(Readable.from(chunks), response, () => {});
  }
}

/** The same for a connection and for the TLS in it. */
function peerOf({ remoteAddress, remotePort }) {
  return `${remoteAddress} ${remotePort}`;
}

function refuse(response, status, error) {
  response.statusCode = status;
  response.setHeader('Content-Type', 'application/json');
  response.end(`${stringify({ error })}\n`);
}

/** The ports that this process may take, in the order to try them. */
function portsOf(first) {
  const alone = threads.isMainThread && !require('cluster').isWorker;
  if (alone || first === 0) return [first];
  // Each child of a cluster and each thread has its own mediasoup. The first port is reserved for their parent.
  const last = Math.min(first + PORT_RANGE, 65535);
  return Array.from({ length: last - first }, (_, i) => first + 1 + i);
}

// ----------------------------------------------------------------------------------------------------- finding mediasoup

/** Where threads find the path that their main thread resolved: they start without a path of a script. */
const SHARED = `${NAME}/mediasoup`;

/** The files that mediasoup would be loaded from by this application; normally one. */
function candidates(configured) {
  const mains = [process.argv[1], scriptOfPm2()].filter((main) => main !== undefined);
  // The real path of the script, from which Node.js resolves modules; it may be a directory, as in `node .`
  const scripts = mains.flatMap((main) => [realPath(main), main, path.join(main, 'any')]);
  const settings = configured === undefined ? [] : [configured, path.join(configured, 'any')];
  const found = new Set(threads.getEnvironmentData?.(SHARED));
  for (const base of [...settings, ...scripts, 'any']) {
    try {
      found.add(createRequire(path.resolve(base)).resolve('mediasoup'));
    } catch {
      // It cannot be resolved from here.
    }
  }
  return [...found];
}

/** pm2 starts its own program, which loads the application's script later. */
function scriptOfPm2() {
  const { pm_exec_path: alone, pm2_env: inCluster } = process.env;
  try {
    return alone ?? JSON.parse(inCluster).pm_exec_path;
  } catch {
    return undefined;
  }
}

function realPath(name) {
  try {
    return fs.realpathSync(name);
  } catch {
    return name;
  }
}

/** Calls back with the first value other than `undefined` that the property is given, and leaves an ordinary property. */
function whenSet(object, property, callBack) {
  Object.defineProperty(object, property, {
    configurable: true,
    // Not enumerable, so that code that iterates over all modules does not see it before it has a value.
    enumerable: false,
    get: () => undefined,
    set(value) {
      // Restores the original state.
      delete object[property];
      if (value === undefined) {
        whenSet(object, property, callBack);
      } else {
        object[property] = value;
        try {
          callBack(value);
        } catch {
          // The property is set by the application, or by Node.js on its behalf.
        }
      }
    },
  });
}

/**
 * Calls back with mediasoup when the application loads it. Loading it here would cost every process that never uses it, and would
 * be too early: mediasoup reads its environment when it is loaded, which the application may set first.
 *
 * Both `require` and `import` put it into the module cache before it runs; while it runs, it exports its observer, before a worker
 * can be created.
 */
function whenLoaded(filename, callBack) {
  const notice = ({ exports }) => {
    // Complete already, if the application has put it there itself.
    if (exports.observer === undefined) whenSet(exports, 'observer', () => callBack(exports));
    else callBack(exports);
  };
  const loaded = require.cache[filename];
  if (loaded === undefined) whenSet(require.cache, filename, notice);
  else notice(loaded);
}

// ----------------------------------------------------------------------------------------------------------------- start

/** The agent, once in a process or thread. */
class Agent {
  constructor() {
    this.startedMs = unixTime();
    this.log = new Log(this);
    this.book = new Book(this.log);
    this.privacy = new Privacy(this);
    this.walks = new Walks(this);
    this.rooms = undefined;
    this.server = undefined;
    this.context = new AsyncResource(NAME);
    this.configure();
  }

  /** Reads the current settings. */
  configure() {
    const { settings, mistakes, closed } = readSettings(process.env);
    this.settings = settings;
    this.mistakes = mistakes;
    this.closed = closed;
  }

  /** Waits for the application to load mediasoup. */
  arm() {
    if (!this.settings.ENABLED) return;
    const files = candidates(this.settings.MEDIASOUP);
    if (files.length === 0) {
      this.log.write('debug', `no mediasoup can be loaded from ${process.argv[1] ?? 'here'}`);
      return;
    }
    this.log.write('debug', `waits for ${files.join(' or ')} to be loaded`);
    if (threads.isMainThread) threads.setEnvironmentData?.(SHARED, files);
    for (const filename of files) whenLoaded(filename, (mediasoup) => this.attach(mediasoup));
  }

  /** Watches a mediasoup that has been loaded. Never throws: the application is in the middle of loading it. */
  attach(mediasoup) {
    try {
      // The application may have set them before it loaded mediasoup, from a file such as .env.
      if (this.server === undefined) this.configure();
      if (!this.settings.ENABLED) return;
      if (typeof mediasoup?.observer?.on !== 'function') throw new Error('this is not mediasoup 3');
      this.book.watch(mediasoup);
      if (this.server !== undefined) return;
      this.server = new Server(this);
      for (const mistake of this.mistakes) this.log.write('warn', mistake);
      // Not in the async context of the application's request that loaded mediasoup, because the server outlives it.
      if (!this.closed) this.context.runInAsyncScope(() => void this.server.start());
    } catch (error) {
      this.log.once('attach', 'warn', `cannot watch mediasoup: ${sentence(error)}`);
    }
  }
}

/**
 * The only agent of this thread, although a package and a mounted file may both be loaded. If even this fails, the application must
 * still start.
 */
function theAgent() {
  const key = Symbol.for(NAME);
  if (globalThis[key] === undefined) {
    const agent = new Agent();
    Object.defineProperty(globalThis, key, { value: agent });
    try {
      agent.arm();
    } catch (error) {
      agent.log.write('warn', `cannot start: ${sentence(error)}`);
    }
  }
  return globalThis[key];
}

const agent = theAgent();

/** Sets the rooms: a list of `{id, peers}`, or a function that returns one for each document. */
exports.setRooms = (rooms) => {
  agent.rooms = rooms;
};

/** Passes mediasoup to the agent, for applications that are bundled into one file, where it cannot be detected. */
exports.attach = (mediasoup) => agent.attach(mediasoup);
