// A server of the kind under test, for as long as a test needs it. ETCD_BIN names the binary.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

export const PATIENCE_MS = 30_000;

export class Server {
  static async start() {
    const server = new Server();
    server.dir = await mkdtemp(join(tmpdir(), 'interop-'));
    const [client, peer] = await freePorts();
    server.port = client;
    server.url = `http://127.0.0.1:${client}`;
    const peerUrl = `http://127.0.0.1:${peer}`;
    server.flags = [
      '--name=m', `--data-dir=${join(server.dir, 'data')}`, '--log-level=error',
      `--listen-client-urls=${server.url}`, `--advertise-client-urls=${server.url}`,
      `--listen-peer-urls=${peerUrl}`, `--initial-advertise-peer-urls=${peerUrl}`, `--initial-cluster=m=${peerUrl}`,
    ];
    await server.run();
    return server;
  }

  async run() {
    assert(process.env.ETCD_BIN, 'ETCD_BIN does not name a server');
    const log = await open(join(this.dir, 'log'), 'a');
    this.process = spawn(process.env.ETCD_BIN, this.flags, { stdio: ['ignore', log.fd, log.fd] });
    await once(this.process, 'spawn');
    await log.close();
    await eventually(() => this.listens());
  }

  async kill() {
    const ended = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await ended;
  }

  async restart() {
    await this.kill();
    await this.run();
  }

  async remove() {
    await this.kill();
    await rm(this.dir, { recursive: true });
  }

  listens() {
    assert.equal(this.process.exitCode, null, 'the server ended');
    return new Promise((resolve) => {
      const socket = connect(this.port, '127.0.0.1');
      socket.once('connect', () => { socket.destroy(); resolve(true); });
      socket.once('error', () => resolve(false));
    });
  }
}

// Both are held until both are known, so that they differ.
async function freePorts() {
  const held = [createServer(), createServer()];
  for (const server of held) await once(server.listen(0, '127.0.0.1'), 'listening');
  const ports = held.map((server) => server.address().port);
  await Promise.all(held.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

export async function eventually(holds) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    assert(Date.now() < deadline, `not true after ${PATIENCE_MS} ms: ${holds}`);
    await pause(20);
  }
}
