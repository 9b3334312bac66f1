// Starts a server of this project behind a TCP proxy that can cut its connections.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

function connects(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.once('connect', () => { socket.destroy(); resolve(true); });
    socket.once('error', () => resolve(false));
  });
}

/** Return the child processes of a process, because some servers serve from a child. */
function children(pid) {
  const pids = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return pids.split(' ').filter(Boolean).map(Number);
}

/** A server whose clients connect through a proxy, so that a test can cut them off. */
export class Server {
  static async start() {
    const server = new Server();
    server.port = await freePort();
    server.sockets = new Set();
    server.open = true;
    server.proxy = net.createServer((socket) => server.relay(socket));
    server.proxy.listen(0, '127.0.0.1');
    await once(server.proxy, 'listening');
    server.address = `127.0.0.1:${server.proxy.address().port}`;
    await server.run();
    return server;
  }

  async run() {
    const [command, ...args] = JSON.parse(process.env.SERVER_COMMAND);
    this.output = '';
    const commandLine = args.map((arg) => arg.replace('{port}', String(this.port)));
    this.process = spawn(command, commandLine, {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on('data', (data) => { this.output += data; });
    }
    let failure = null;
    this.process.on('error', (error) => { failure = error; });
    while (!(await connects(this.port))) {
      if (failure !== null) {
        throw failure;
      }
      if (this.process.exitCode !== null) {
        throw new Error(`the server has ended:\n${this.output}`);
      }
      await new Promise((resolve) => { setTimeout(resolve, 50); });
    }
  }

  relay(socket) {
    if (!this.open) {
      socket.destroy();
      return;
    }
    const inner = net.connect(this.port, '127.0.0.1');
    for (const [from, to] of [[socket, inner], [inner, socket]]) {
      this.sockets.add(from);
      from.on('error', () => to.destroy());
      from.on('close', () => { this.sockets.delete(from); to.destroy(); });
      from.pipe(to);
    }
  }

  /** Close all connections, and refuse new ones until `mend`. */
  cut() {
    this.open = false;
    for (const socket of this.sockets) {
      socket.destroy();
    }
  }

  mend() {
    this.open = true;
  }

  async end(signal) {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const ended = once(this.process, 'exit');
      for (const pid of [...children(this.process.pid), this.process.pid]) {
        process.kill(pid, signal);
      }
      await ended;
    }
  }

  async restart() {
    await this.end('SIGKILL');
    await this.run();
  }

  async stop() {
    this.cut();
    this.proxy.close();
    await this.end('SIGKILL');
  }

  /** Send a request directly to the server, without the proxy. */
  async request(method, path, body) {
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, {
      method,
      headers: { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!response.ok) {
      throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    }
    return response.text();
  }

  publish(room, data, tags = {}) {
    return this.request('POST', `/rooms/${room}?${new URLSearchParams(tags)}`, data);
  }

  /** End the channel of a room; the options are `data`, `error` and another `channel`. */
  finish(room, options = {}) {
    return this.request('DELETE', `/rooms/${room}?${new URLSearchParams(options)}`);
  }
}
