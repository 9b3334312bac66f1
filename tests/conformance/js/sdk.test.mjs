// Tests of the official JavaScript SDK against a server of this project.
//
// TRANSPORT is one of websocket, protobuf, http_stream and sse. A name begins with the
// features that the test covers; tests/conformance/features.py lists them.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';

import { Centrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

import { Server } from './server.mjs';

const TRANSPORT = process.env.TRANSPORT ?? 'websocket';
const BINARY = TRANSPORT === 'protobuf';
const TIMEOUT_MS = 30_000;
const clients = [];
let server;

before(async () => { server = await Server.start(); });
after(async () => { await server.stop(); });
afterEach(() => {
  for (const client of clients.splice(0)) {
    client.disconnect();
  }
});

const encode = (value) => (BINARY ? new TextEncoder().encode(JSON.stringify(value)) : value);
const decode = (data) => (BINARY ? JSON.parse(new TextDecoder().decode(data)) : data);

function newClient(options = {}) {
  const ours = {
    websocket: WebSocket,
    fetch,
    readableStream: ReadableStream,
    eventsource: EventSource,
    emulationEndpoint: `http://${server.address}/emulation`,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    ...options,
  };
  if ('data' in ours) {
    ours.data = encode(ours.data);
  }
  let client;
  if (BINARY) {
    client = new ProtobufCentrifuge(`ws://${server.address}/connection/websocket`, ours);
  } else if (TRANSPORT === 'websocket') {
    client = new Centrifuge(`ws://${server.address}/connection/websocket`, ours);
  } else {
    const endpoint = `http://${server.address}/connection/${TRANSPORT}`;
    client = new Centrifuge([{ transport: TRANSPORT, endpoint }], ours);
  }
  clients.push(client);
  return client;
}

/** Wait for the next event with this name that the predicate accepts. */
function next(emitter, event, accepts = () => true) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`no ${event} within ${TIMEOUT_MS} ms\n${server.output}`)),
      TIMEOUT_MS,
    );
    const listener = (context) => {
      if (accepts(context)) {
        clearTimeout(timer);
        emitter.off(event, listener);
        resolve(context);
      }
    };
    emitter.on(event, listener);
  });
}

/** Connect, and return the context of the event `connected`. */
function connected(client) {
  const promise = next(client, 'connected');
  client.connect();
  return promise;
}

/** Subscribe, and return the context of the event `subscribed`. */
function subscribed(subscription) {
  const promise = next(subscription, 'subscribed');
  subscription.subscribe();
  return promise;
}

/** Wait until a condition is true. */
async function until(condition, what) {
  const started = Date.now();
  while (!condition()) {
    assert.ok(Date.now() - started < TIMEOUT_MS, `not within ${TIMEOUT_MS} ms: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

let rooms = 0;
const newRoom = () => { rooms += 1; return `room${rooms}`; };

test('connect: uses the requested transport', async () => {
  const client = newClient({ data: { user: 'ann' } });
  const context = await connected(client);
  assert.equal(context.transport, BINARY ? 'websocket' : TRANSPORT);
  assert.match(context.client, /^[\w-]{20,}$/);
});

test('subscribe, publish: subscribers receive publications of clients and of the server', async () => {
  const room = newRoom();
  const client = newClient({ data: { user: 'ann' } });
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`);
  await subscribed(subscription);
  const value = { text: 'é "x" \n ✓', n: [1, 2.5, null, true] };
  const own = next(subscription, 'publication');
  await subscription.publish(encode(value));
  const publication = await own;
  assert.deepEqual(decode(publication.data), value);
  assert.equal(publication.offset, 1);
  assert.equal(publication.info.user, 'ann');
  assert.deepEqual(decode(publication.info.connInfo), { name: 'ann' });
  const fromServer = next(subscription, 'publication');
  await server.publish(room, { text: 'from the server' });
  assert.deepEqual(decode((await fromServer).data), { text: 'from the server' });
});

test('presence, joins: clients that come and leave', async () => {
  const channel = `rooms:${newRoom()}`;
  const ann = newClient({ data: { user: 'ann' } });
  await connected(ann);
  const subscription = ann.newSubscription(channel, { joinLeave: true });
  await subscribed(subscription);
  const joined = next(subscription, 'join', (context) => context.info.user === 'bob');
  const bob = newClient({ data: { user: 'bob' } });
  const bobId = (await connected(bob)).client;
  const quiet = bob.newSubscription(channel);
  const unwanted = [];
  quiet.on('join', (context) => unwanted.push(context));
  await subscribed(quiet);
  assert.equal((await joined).info.client, bobId);
  const { clients: present } = await subscription.presence();
  assert.equal(present[bobId].user, 'bob');
  assert.deepEqual(await subscription.presenceStats(), { numClients: 2, numUsers: 2 });
  const published = next(quiet, 'publication');
  const eve = newClient({ data: { user: 'eve' } });
  await connected(eve);
  await subscribed(eve.newSubscription(channel));
  await subscription.publish(encode('after the join'));
  await published;
  assert.deepEqual(unwanted, []);
  eve.disconnect();
  const left = next(subscription, 'leave', (context) => context.info.user === 'bob');
  bob.disconnect();
  assert.equal((await left).info.client, bobId);
});

test('history: forwards, backwards and from a position', async () => {
  const room = newRoom();
  const client = newClient();
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`);
  await subscribed(subscription);
  for (let n = 1; n <= 5; n += 1) {
    await server.publish(room, n);
  }
  const all = await subscription.history({ limit: -1 });
  assert.deepEqual(all.publications.map((item) => decode(item.data)), [1, 2, 3, 4, 5]);
  assert.equal(all.offset, 5);
  const since = { offset: 3, epoch: all.epoch };
  const later = await subscription.history({ limit: 10, since });
  assert.deepEqual(later.publications.map((item) => item.offset), [4, 5]);
  const newest = await subscription.history({ limit: 2, reverse: true });
  assert.deepEqual(newest.publications.map((item) => item.offset), [5, 4]);
  const top = await subscription.history({ limit: 0 });
  assert.deepEqual(top.publications, []);
  await assert.rejects(
    subscription.history({ limit: 1, since: { offset: 3, epoch: 'other' } }),
    { code: 112 },
  );
});

test('rpc: calls return a result or an error code', async () => {
  const client = newClient();
  await connected(client);
  const { data } = await client.rpc('sum', encode([1, 2, 3]));
  assert.deepEqual(decode(data), { sum: 6 });
  await assert.rejects(client.rpc('fail', encode(null)), { code: 100 });
  await assert.rejects(client.rpc('unknown', encode(null)), { code: 104 });
});

test('messages: sent and received', async () => {
  const client = newClient();
  await connected(client);
  const message = next(client, 'message');
  await client.send(encode('hello'));
  assert.equal(decode((await message).data), 'echo');
});

test('server_subscriptions: the server subscribes a client', async () => {
  const client = newClient({ data: { user: 'cat' } });
  const there = next(client, 'subscribed');
  await connected(client);
  const context = await there;
  assert.equal(context.channel, '#cat');
  assert.equal(context.recoverable, true);
  const publication = next(client, 'publication');
  await server.request('POST', '/users/cat/publish');
  const { channel, data } = await publication;
  assert.deepEqual([channel, decode(data)], ['#cat', 'to cat']);
});

test('codes: refused requests have the documented codes', async () => {
  const client = newClient({ data: { user: 'ann' } });
  await connected(client);
  for (const [channel, code] of [['rooms:secret', 103], ['nowhere', 102]]) {
    const subscription = client.newSubscription(channel);
    const refused = next(subscription, 'unsubscribed');
    subscription.subscribe();
    assert.equal((await refused).code, code);
  }
  const subscription = client.newSubscription(`rooms:${newRoom()}`);
  await subscribed(subscription);
  await assert.rejects(subscription.publish(encode('refuse')), { code: 103 });
  await assert.rejects(client.publish('rooms:other', encode(1)), { code: 103 });
  await assert.rejects(client.history('rooms:other', { limit: 1 }), { code: 103 });
  await assert.rejects(client.presence('rooms:other'), { code: 103 });
});

test('recovery: publications missed while disconnected are recovered', async () => {
  const room = newRoom();
  const client = newClient();
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`);
  const seen = [];
  subscription.on('publication', (context) => seen.push(decode(context.data)));
  await subscribed(subscription);
  const first = next(subscription, 'publication');
  await server.publish(room, 0);
  await first;
  const lost = next(client, 'connecting');
  server.cut();
  await lost;
  for (let n = 1; n <= 20; n += 1) {
    await server.publish(room, n);
  }
  const back = next(subscription, 'subscribed');
  server.mend();
  const context = await back;
  assert.equal(context.wasRecovering, true);
  assert.equal(context.recovered, true);
  const last = next(subscription, 'publication', ({ data }) => decode(data) === 21);
  await server.publish(room, 21);
  await last;
  assert.deepEqual(seen, Array.from({ length: 22 }, (_, n) => n));
});

test('recovery: publications missed while unsubscribed are recovered', async () => {
  const room = newRoom();
  const client = newClient();
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`, { recoverable: true });
  await subscribed(subscription);
  const seen = [];
  subscription.on('publication', (context) => seen.push(decode(context.data)));
  const first = next(subscription, 'publication');
  await server.publish(room, 'before');
  await first;
  subscription.unsubscribe();
  await client.rpc('sum', encode([])); // the server has processed the unsubscribe
  await server.publish(room, 'meanwhile');
  const context = await subscribed(subscription);
  assert.equal(context.recovered, true);
  assert.deepEqual(seen, ['before', 'meanwhile']);
});

test('tokens: good, refreshed, expired and forged', async () => {
  let calls = 0;
  const getToken = () => {
    calls += 1;
    return server.request('GET', `/users/dan/token?ttl=${calls === 1 ? -5 : 2}`);
  };
  const client = newClient({ getToken });
  const personal = next(client, 'subscribed');
  await connected(client);
  assert.equal((await personal).channel, '#dan');
  assert.ok(calls >= 2, 'an expired token is replaced');
  const before = calls;
  await until(() => calls > before, 'the token is refreshed');
  assert.deepEqual(decode((await client.rpc('sum', encode([4]))).data), { sum: 4 });
  const forged = newClient({ token: 'x.y.z' });
  const refused = next(forged, 'disconnected');
  forged.connect();
  assert.equal((await refused).code, 3500);
});

test('subscription_tokens: refused without, refreshed in time', async () => {
  const token = await server.request('GET', '/users/eve/token');
  const client = newClient({ token });
  await connected(client);
  const without = client.newSubscription('rooms:token');
  const refused = next(without, 'unsubscribed');
  without.subscribe();
  assert.equal((await refused).code, 103);
  client.removeSubscription(without);
  let calls = 0;
  const getToken = ({ channel }) => {
    calls += 1;
    const query = new URLSearchParams({ channel, ttl: 2 });
    return server.request('GET', `/users/eve/token?${query}`);
  };
  const subscription = client.newSubscription('rooms:token', { getToken });
  await subscribed(subscription);
  await until(() => calls >= 2, 'the token is refreshed');
  const own = next(subscription, 'publication');
  await subscription.publish(encode('still there'));
  assert.equal(decode((await own).data), 'still there');
});

test('codes: a revoked subscription ends and cannot be renewed', async () => {
  const room = newRoom();
  const client = newClient({ data: { user: 'fay' } });
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`);
  await subscribed(subscription);
  const ended = next(subscription, 'unsubscribed');
  await server.request('POST', `/users/fay/revoke?channel=rooms:${room}`);
  assert.equal((await ended).code, 2000);
  const again = next(subscription, 'unsubscribed');
  subscription.subscribe();
  assert.equal((await again).code, 103);
});

test('codes: a client reconnects or not, depending on the close code', async () => {
  const client = newClient({ data: { user: 'gus' } });
  await connected(client);
  const back = next(client, 'connected');
  await server.request('POST', '/users/gus/disconnect?code=4000');
  await back;
  const final = next(client, 'disconnected');
  await server.request('POST', '/users/gus/disconnect?code=4500');
  assert.equal((await final).code, 4500);
});

test('since: a subscription starts at a position', async () => {
  const room = newRoom();
  const client = newClient();
  await connected(client);
  for (const n of [1, 2]) {
    await server.publish(room, n);
  }
  const { epoch } = JSON.parse(await server.request('GET', `/rooms/${room}/position`));
  const since = { offset: 1, epoch };
  const subscription = client.newSubscription(`rooms:${room}`, { since });
  const first = next(subscription, 'publication');
  const { recovered } = await subscribed(subscription);
  assert.equal(recovered, true);
  assert.equal((await first).offset, 2);
});

for (const [name, options, code, reason] of [
  ['finished', {}, 2400, 'channel finished'],
  ['failed', { error: 'too long' }, 2401, 'too long'],
]) {
  test(`finish: a ${name} channel ends the subscription after its publications`, async () => {
    const room = newRoom();
    const client = newClient();
    await connected(client);
    const subscription = client.newSubscription(`rooms:${room}`);
    const seen = [];
    subscription.on('publication', ({ data }) => seen.push(decode(data)));
    await subscribed(subscription);
    await server.publish(room, 'a');
    const ended = next(subscription, 'unsubscribed');
    await server.finish(room, { data: 'b', ...options });
    const context = await ended;
    assert.deepEqual([context.code, context.reason], [code, reason]);
    assert.deepEqual(seen, ['a', 'b']);
    // A client that connects again does not subscribe again.
    server.cut();
    const back = next(client, 'connected');
    server.mend();
    await back;
    assert.equal(subscription.state, 'unsubscribed');
    // A client that comes late receives everything, and the end.
    const late = newClient();
    await connected(late);
    const since = { offset: 0, epoch: '' };
    const second = late.newSubscription(`rooms:${room}`, { since });
    const recovered = [];
    second.on('publication', ({ data }) => recovered.push(decode(data)));
    const secondEnded = next(second, 'unsubscribed');
    await subscribed(second);
    assert.equal((await secondEnded).code, code);
    assert.deepEqual(recovered, ['a', 'b']);
    const history = await late.history(`rooms:${room}`, { limit: 10 }).catch((error) => error);
    assert.equal(history.code, 103);
  });
}

test('finish: a channel that ended meanwhile is recovered to its end', async () => {
  const room = newRoom();
  const client = newClient();
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`);
  const seen = [];
  subscription.on('publication', ({ data }) => seen.push(decode(data)));
  await subscribed(subscription);
  const first = next(subscription, 'publication');
  await server.publish(room, 0);
  await first;
  const lost = next(client, 'connecting');
  server.cut();
  await lost;
  await server.publish(room, 1);
  await server.finish(room);
  const ended = next(subscription, 'unsubscribed');
  const back = next(subscription, 'subscribed');
  server.mend();
  assert.equal((await back).recovered, true);
  assert.equal((await ended).code, 2400);
  assert.deepEqual(seen, [0, 1]);
  assert.equal(subscription.state, 'unsubscribed');
});

test('finish: a server-side channel that has ended is unsubscribed', async () => {
  const client = newClient({ data: { user: 'ivy' } });
  const there = next(client, 'subscribed');
  await connected(client);
  assert.equal((await there).channel, '#ivy');
  const ended = next(client, 'unsubscribed');
  const published = next(client, 'publication');
  await server.finish('x', { channel: '#ivy', data: 'bye' });
  assert.equal(decode((await published).data), 'bye');
  assert.equal((await ended).channel, '#ivy');
  assert.equal(client.state, 'connected');
  // The next connect finds that it has ended.
  const late = newClient({ data: { user: 'ivy' } });
  const lateEnded = next(late, 'unsubscribed');
  await connected(late);
  assert.equal((await lateEnded).channel, '#ivy');
});

// The region of each publication; a client of the region north gets 1, 4 and so on.
const REGIONS = ['north', 'south', ''];

for (const [name, prefix, options] of [
  ['of the client', 'room', { tagsFilter: { key: 'region', cmp: 'eq', val: 'north' } }],
  ['of the server', 'north', {}],
  ['of both', 'north', { tagsFilter: { key: 'n', cmp: 'lte', val: '7' } }],
]) {
  test(`filter: one ${name} selects live, recovered and stored publications`, async () => {
    const room = newRoom().replace('room', prefix);
    const wanted = name === 'of both' ? [1, 4, 7] : [1, 4, 7, 10];
    const client = newClient();
    await connected(client);
    const subscription = client.newSubscription(`rooms:${room}`, options);
    const received = [];
    subscription.on('publication', ({ data, offset }) => {
      assert.equal(decode(data), offset);
      received.push(offset);
    });
    await subscribed(subscription);
    const publish = (n) => server.publish(room, n, { n, region: REGIONS[(n - 1) % 3] });
    const fourth = next(subscription, 'publication', ({ offset }) => offset === 4);
    for (let n = 1; n <= 5; n += 1) {
      await publish(n);
    }
    await fourth;
    const away = next(subscription, 'subscribing');
    server.cut();
    await away;
    for (let n = 6; n <= 8; n += 1) {
      await publish(n);
    }
    const back = next(subscription, 'subscribed');
    server.mend();
    const { wasRecovering, recovered } = await back;
    assert.deepEqual([wasRecovering, recovered], [true, true]);
    const last = name === 'of both' ? 7 : 10;
    for (let n = 9; n <= 11; n += 1) {
      await publish(n);
    }
    const { publications } = await subscription.history({ limit: 100 });
    const stored = publications.map(({ offset }) => offset);
    const allowed = prefix === 'north' ? [1, 4, 7, 10] : [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    assert.deepEqual(stored, allowed);
    while (received.at(-1) !== last) {
      await next(subscription, 'publication');
    }
    assert.deepEqual(received, wanted);
  });
}

test('filter: a malformed one is refused with error 107', async () => {
  const client = newClient();
  await connected(client);
  const tagsFilter = { key: 'region', cmp: 'like', val: 'n' };
  const subscription = client.newSubscription(`rooms:${newRoom()}`, { tagsFilter });
  const refused = next(subscription, 'unsubscribed');
  subscription.subscribe();
  assert.equal((await refused).code, 107);
});

/** Follow a state with `getState`; return what was loaded and received. */
function followState(client, name) {
  const seen = { loaded: [], received: [] };
  const subscription = client.newSubscription(`states:${name}`, {
    minResubscribeDelay: 20,
    maxResubscribeDelay: 200,
    async getState() {
      const { state, offset, epoch } = JSON.parse(await server.request('GET', `/states/${name}`));
      seen.loaded.push(state);
      return { offset, epoch };
    },
  });
  subscription.on('publication', ({ data }) => seen.received.push(decode(data)));
  return { subscription, seen };
}

test('state: getState loads a state, and the subscription follows it without a gap', async () => {
  const name = newRoom();
  const put = (state) => server.request('PUT', `/states/${name}`, state);
  await put('a');
  const client = newClient({ data: { user: 'ann' } });
  await connected(client);
  const { subscription, seen } = followState(client, name);
  const { recovered } = await subscribed(subscription);
  assert.deepEqual([recovered, seen], [true, { loaded: ['a'], received: [] }]);
  let published = next(subscription, 'publication');
  await put('b');
  await published;

  // A short absence is recovered, without loading the state again.
  let lost = next(subscription, 'subscribing');
  server.cut();
  await lost;
  await put('c');
  let back = next(subscription, 'subscribed');
  server.mend();
  assert.equal((await back).recovered, true);
  assert.deepEqual(seen, { loaded: ['a'], received: ['b', 'c'] });

  // After a long absence (error 112), the state is loaded again.
  lost = next(subscription, 'subscribing');
  server.cut();
  await lost;
  for (const state of ['d', 'e', 'f', 'g']) {
    await put(state);
  }
  back = next(subscription, 'subscribed');
  server.mend();
  assert.equal((await back).recovered, true);
  assert.deepEqual(seen, { loaded: ['a', 'g'], received: ['b', 'c'] });

  // Code 2502 lets the client forget its position, and load the state again.
  await server.request('PUT', `/states/${name}?quiet=true`, 'restored');
  back = next(subscription, 'subscribed');
  await server.request('POST', `/users/ann/invalidate?channel=states:${name}`);
  assert.equal((await back).recovered, true);
  assert.deepEqual(seen, { loaded: ['a', 'g', 'restored'], received: ['b', 'c'] });

  // So does code 3014, for all subscriptions of a connection.
  await server.request('PUT', `/states/${name}?quiet=true`, 'again');
  back = next(subscription, 'subscribed');
  await server.request('POST', '/users/ann/disconnect?code=3014');
  await back;
  published = next(subscription, 'publication');
  await put('last');
  await published;
  assert.deepEqual(seen, {
    loaded: ['a', 'g', 'restored', 'again'],
    received: ['b', 'c', 'last'],
  });
});

test('delta: a client restores each state, live and recovered', async () => {
  const room = newRoom();
  const client = newClient();
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`, { delta: 'fossil' });
  const received = [];
  subscription.on('publication', ({ data }) => received.push(decode(data)));
  await subscribed(subscription);
  const states = [Object.fromEntries(
    Array.from({ length: 1000 }, (_, n) => [`item ${n}`, Math.random()]),
  )];
  const change = async (n) => {
    states.push({ ...states.at(-1), [`item ${n * 50}`]: `é ✓ ${n}` });
    await server.publish(room, states.at(-1));
  };
  const tenth = next(subscription, 'publication', ({ offset }) => offset === 10);
  for (let n = 1; n <= 10; n += 1) {
    await change(n);
  }
  await tenth;
  const away = next(subscription, 'subscribing');
  server.cut();
  await away;
  for (let n = 11; n <= 15; n += 1) {
    await change(n);
  }
  const back = next(subscription, 'subscribed');
  server.mend();
  assert.equal((await back).recovered, true);
  const last = next(subscription, 'publication', ({ offset }) => offset === 16);
  await change(16);
  await last;
  assert.deepEqual(received, states.slice(1));
  // The first one after each subscribe is whole.
  const { numFullPayloads, numDeltaPayloads } = subscription.deltaStats();
  assert.deepEqual([numFullPayloads, numDeltaPayloads], [2, 14]);
});

test('restart: a client learns that recovery failed', async () => {
  const room = newRoom();
  const client = newClient();
  await connected(client);
  const subscription = client.newSubscription(`rooms:${room}`);
  await subscribed(subscription);
  const first = next(subscription, 'publication');
  await server.publish(room, 1);
  await first;
  const back = next(subscription, 'subscribed');
  await server.restart();
  const context = await back;
  assert.equal(context.wasRecovering, true);
  assert.equal(context.recovered, false);
  const fresh = next(subscription, 'publication');
  await server.publish(room, 2);
  assert.equal((await fresh).offset, 1);
});

if (TRANSPORT === 'websocket') {
  test('codes: invalid commands close the connection with 3501', async () => {
    for (const rubbish of ['hello', '{"id":1}', '{"id":1,"rpc":{}}', '[[[[', '\n']) {
      const socket = new WebSocket(`ws://${server.address}/connection/websocket`);
      const code = await new Promise((resolve, reject) => {
        socket.on('open', () => socket.send(rubbish));
        socket.on('close', resolve);
        socket.on('error', reject);
      });
      assert.equal(code, 3501, rubbish);
    }
  });
}
