// What users of the npm package `etcd3` do, against the server under test.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, afterEach, before, test } from 'node:test';

import { Etcd3, EtcdLockFailedError, EtcdPermissionDeniedError, GRPCGenericError } from 'etcd3';

import { eventually, PATIENCE_MS, Server } from './server.js';

let server;
let client;

before(async () => {
  server = await Server.start();
  client = new Etcd3({ hosts: server.url });
});

after(async () => {
  client.close();
  await server.remove();
});

afterEach(async () => {
  await client.delete().all();
});

const limit = { timeout: PATIENCE_MS };

test('put, get and delete', limit, async () => {
  await client.put('k').value('old');
  const put = await client.put('k').value('new').getPrevious();
  assert.equal(put.value.toString(), 'old');
  assert.equal(await client.get('k').string(), 'new');
  const { kvs: [kv] } = await client.get('k').exec();
  assert.equal(kv.version, '2');
  assert.equal(await client.get('k').revision(kv.create_revision).string(), 'old');
  await client.put('n').value(42);
  assert.equal(await client.get('n').number(), 42);
  assert.equal((await client.delete().key('k').exec()).deleted, '1');
  assert.equal(await client.get('k').string(), null);
  assert.equal(await client.get('k').exists(), false);
});

test('ranges, sorting and counting', limit, async () => {
  for (const [key, value] of [['p/b', '1'], ['p/a', '3'], ['p/c', '2'], ['q', '0']]) await client.put(key).value(value);
  assert.deepEqual(await client.getAll().prefix('p/').strings(), { 'p/a': '3', 'p/b': '1', 'p/c': '2' });
  assert.deepEqual(await client.getAll().prefix('p/').sort('Value', 'Descend').limit(2).keys(), ['p/a', 'p/c']);
  assert.equal(await client.getAll().count(), 4);
  assert.deepEqual(await client.getAll().inRange({ start: 'p/b', end: 'q' }).keys(), ['p/b', 'p/c']);
  assert.equal((await client.delete().prefix('p/').exec()).deleted, '3');
});

test('transactions', limit, async () => {
  const create = () => client.if('k', 'Create', '==', 0).then(client.put('k').value('v')).else(client.get('k')).commit();
  assert.equal((await create()).succeeded, true);
  const refused = await create();
  assert.equal(refused.succeeded, false);
  assert.equal(refused.responses[0].response_range.kvs[0].value.toString(), 'v');
});

test('a software transaction runs again on conflict', limit, async () => {
  await client.put('sum').value(0);
  const add = () => client.stm({ retries: 50 }).transact(async (tx) => {
    await tx.put('sum').value((await tx.get('sum').number()) + 1);
  });
  await Promise.all(Array.from({ length: 8 }, add));
  assert.equal(await client.get('sum').number(), 8);
});

test('a watch sees puts and deletes in order', limit, async () => {
  const watcher = await client.watch().prefix('w/').withPreviousKV().create();
  const seen = [];
  watcher.on('put', (kv) => seen.push(`put ${kv.key}=${kv.value}`));
  watcher.on('delete', (kv, previous) => seen.push(`delete ${kv.key}, was ${previous.value}`));
  await client.put('w/1').value('a');
  await client.put('other').value('b');
  await client.delete().key('w/1');
  await eventually(() => seen.length >= 2);
  assert.deepEqual(seen, ['put w/1=a', 'delete w/1, was a']);
  await watcher.cancel();
});

test('a watch reads history and leaves out what is filtered', limit, async () => {
  const { header } = await client.put('h').value('1');
  await client.delete().key('h');
  await client.put('h').value('2');
  const watcher = await client.watch().key('h').startRevision(header.revision).only('put').create();
  const seen = [];
  watcher.on('put', (kv) => seen.push(kv.value.toString()));
  await eventually(() => seen.length >= 2);
  assert.deepEqual(seen, ['1', '2']);
  await watcher.cancel();
});

test('a watch goes on after the server was killed', limit, async () => {
  const own = await Server.start();
  const ownClient = new Etcd3({ hosts: own.url });
  try {
    const watcher = await ownClient.watch().prefix('r/').create();
    const seen = [];
    watcher.on('put', (kv) => seen.push(kv.key.toString()));
    await ownClient.put('r/1').value('v');
    await eventually(() => seen.length === 1);
    const reconnected = once(watcher, 'connected');
    await own.restart();
    await reconnected;
    await ownClient.put('r/2').value('v');
    await eventually(() => seen.length >= 2);
    assert.deepEqual(seen, ['r/1', 'r/2']);
    assert.equal(await ownClient.get('r/1').string(), 'v');
    await watcher.cancel();
  } finally {
    ownClient.close();
    await own.remove();
  }
});

test('leases hold their keys and are renewed', limit, async () => {
  const lease = client.lease(3);
  await lease.put('leased').value('v');
  await once(lease, 'keepaliveSucceeded');
  assert.equal((await lease.keepaliveOnce()).TTL, '3');
  assert.equal((await client.leaseClient.leaseTimeToLive({ ID: await lease.grant(), keys: true })).keys.length, 1);
  await lease.revoke();
  assert.equal(await client.get('leased').string(), null);
});

test('a lease that is not renewed is lost', limit, async () => {
  const lease = client.lease(1, { autoKeepAlive: false });
  await lease.put('short').value('v');
  await eventually(async () => (await client.get('short').string()) === null);
  await assert.rejects(client.put('k').value('v').lease(await lease.grant()).exec(), /requested lease not found/);
});

test('a lock has one holder', limit, async () => {
  const held = await client.lock('mutex').ttl(60).acquire();
  await assert.rejects(client.lock('mutex').ttl(60).acquire(), EtcdLockFailedError);
  await held.release();
  await (await client.lock('mutex').ttl(60).acquire()).release();
});

test('an election has one leader after the other', limit, async () => {
  const election = client.election('room', 60);
  const observer = await election.observe();
  const first = election.campaign('one');
  await first.wait();
  await eventually(() => observer.leader() === 'one');
  await first.proclaim('one again');
  await eventually(() => observer.leader() === 'one again');
  // The client asks who leads and then watches without a revision, so it may miss a resignation in between, from any
  // server. That it waits is tested, but not that it takes over while waiting.
  const waiting = election.campaign('waiting');
  await once(waiting, '_isWaiting');
  assert.equal(await election.leader(), 'one again');
  await waiting.resign();
  await first.resign();
  const second = election.campaign('two');
  await second.wait();
  await eventually(() => observer.leader() === 'two');
  await second.resign();
  await observer.cancel();
});

test('a namespace puts its prefix before keys', limit, async () => {
  const inner = client.namespace('app/');
  await inner.put('k').value('v');
  assert.equal(await client.get('app/k').string(), 'v');
  assert.deepEqual(await inner.getAll().strings(), { k: 'v' });
});

test('the cluster, its status and its alarms', limit, async () => {
  const { members: [member] } = await client.cluster.memberList({});
  assert.equal(member.name, 'm');
  const status = await client.maintenance.status({});
  assert.equal(status.leader, member.ID);
  assert(status.version);
  assert.deepEqual((await client.maintenance.alarm({ action: 'Get' })).alarms, []);
});

test('errors have the codes and texts that the client knows', limit, async () => {
  const { header } = await client.put('k').value('v');
  await client.kv.compact({ revision: header.revision });
  await assert.rejects(client.kv.compact({ revision: header.revision }), /required revision has been compacted/);
  await assert.rejects(client.put('').value('v').exec(), /key is not provided/);
  await assert.rejects(client.put('k').value(Buffer.alloc(1_600 << 10)).exec(), GRPCGenericError);
  await assert.rejects(client.leaseClient.leaseRevoke({ ID: '4711' }), /requested lease not found/);
});

test('users have the rights of their roles', limit, async () => {
  const own = await Server.start();
  const admin = new Etcd3({ hosts: own.url });
  const as = (username) => new Etcd3({ hosts: own.url, auth: { username, password: `${username}-secret` } });
  const clients = [admin];
  try {
    await admin.role('root').create();
    const reader = admin.role('reader');
    await reader.create();
    await reader.grant({ permission: 'Read', range: admin.range({ prefix: 'public/' }) });
    for (const [name, role] of [['root', 'root'], ['ann', 'reader']]) {
      await admin.user(name).create(`${name}-secret`);
      await admin.user(name).addRole(role);
    }
    await admin.auth.authEnable();
    const [root, ann] = [as('root'), as('ann')];
    clients.push(root, ann);
    await root.put('public/k').value('v');
    assert.equal(await ann.get('public/k').string(), 'v');
    await assert.rejects(ann.put('public/k').value('w').exec(), EtcdPermissionDeniedError);
    await assert.rejects(ann.get('private/k').string(), EtcdPermissionDeniedError);
    await root.auth.authDisable();
    assert.equal(await admin.get('public/k').string(), 'v');
  } finally {
    clients.forEach((each) => each.close());
    await own.remove();
  }
});
