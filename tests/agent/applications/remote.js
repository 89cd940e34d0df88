'use strict';
// The part that both applications share: a conference server that does what the test tells it to, by messages.
//
// It is written as any application of mediasoup is, and knows nothing of the agent.

module.exports = function remote(mediasoup) {
  const objects = new Map();
  const requests = { begun: 0, now: 0, most: 0 };
  const turns = { times: [] };

  /** What the application itself can be told. */
  const application = {
    createWorker: (options) => mediasoup.createWorker(options),
    /** Statistics of objects, read at the same moment. */
    getStatsOf: (...list) => Promise.all(list.map((object) => object.getStats())),
    pipe: async (from, { producerId, router }) => void (await from.pipeToRouter({ producerId, router })),
    /** Counts requests for the statistics of objects, and closes some others as soon as there have been `limit`. */
    countRequests(list, limit, victims = []) {
      for (const object of list) {
        const { getStats } = object;
        object.getStats = async () => {
          requests.begun++;
          requests.now++;
          requests.most = Math.max(requests.most, requests.now);
          if (requests.begun === limit) victims.forEach((victim) => victim.close());
          try {
            return await getStats.call(object);
          } finally {
            requests.now--;
          }
        };
      }
    },
    requests: () => requests,
    async createDirectTransports(router, n) {
      await Promise.all(Array.from({ length: n }, () => router.createDirectTransport()));
    },
    /** Notes the turns of this event loop, and how many it had had when the agent asked for usage of a worker and for rooms. */
    noteTurns(file, worker) {
      const turn = () => {
        turns.times.push(Date.now());
        setImmediate(turn);
      };
      turn();
      const { getResourceUsage } = worker;
      worker.getResourceUsage = () => {
        turns.untilUsage = turns.times.length;
        return getResourceUsage.call(worker);
      };
      require(file).setRooms(() => {
        turns.untilRooms = turns.times.length;
        return [];
      });
    },
    /** How many of them were in a walk before it asked for usage, and after it asked for rooms. */
    turnsIn({ begunMs, endedMs }) {
      const { times, untilUsage, untilRooms } = turns;
      return {
        surveying: untilUsage - times.filter((time) => time <= begunMs).length,
        writing: times.filter((time) => time < endedMs).length - untilRooms,
      };
    },
    addGetter: (object, name) => void Object.defineProperty(object.appData, name, {
      get() {
        throw new Error('run by the agent');
      },
    }),
    pretendStats: (object, stats) => void (object.getStats = async () => stats),
    agent: (file, method, ...args) => void require(file)[method](...args),
    memory() {
      global.gc();
      const { heapUsed, external } = process.memoryUsage();
      return heapUsed + external;
    },
    idle: () => undefined,
    /** Makes a mistake, with a handler for it that goes on. */
    throwAndCatch: () => new Promise((resolve) => {
      process.once('uncaughtException', ({ message }) => resolve(message));
      setImmediate(() => {
        throw new Error('a mistake of the application');
      });
    }),
    exit: (code) => process.exit(code),
  };

  /** Handles are objects again, at any depth. */
  function revive(value) {
    if (value === null || typeof value !== 'object') return value;
    if (value.handle !== undefined) return objects.get(value.handle);
    if (Array.isArray(value)) return value.map(revive);
    return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, revive(member)]));
  }

  /** An object of mediasoup by a handle, with those of its properties that a client must know. */
  function show(value) {
    if (typeof value?.observer?.on !== 'function') return value;
    const handle = objects.size + 1;
    objects.set(handle, value);
    const { id, pid, rtpCapabilities, rtpParameters, iceParameters, iceCandidates, dtlsParameters, sctpParameters, tuple } = value;
    return { handle, id, pid, rtpCapabilities, rtpParameters, iceParameters, iceCandidates, dtlsParameters, sctpParameters, tuple };
  }

  process.on('message', async ({ call, target, method, args }) => {
    try {
      const receiver = target === undefined ? application : objects.get(target);
      const result = await receiver[method](...args.map(revive));
      process.send({ call, result: show(result) });
    } catch (error) {
      process.send({ call, error: String(error?.stack) });
    }
  });
  process.send({ ready: true });
};
