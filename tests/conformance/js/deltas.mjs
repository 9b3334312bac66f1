// Restores payloads with the official JavaScript SDK, from frames on standard input.
//
// The input is {"replies": [...], "pushes": [...]}, frames of Protobuf in base64. The
// first replies answer connect and subscribe. The output is a list of payloads.

import { readFileSync } from 'node:fs';

import { Centrifuge } from 'centrifuge/build/protobuf';

const { replies, pushes } = JSON.parse(readFileSync(0, 'utf8'));
const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'));

/** A WebSocket that answers each message of the SDK with the next frames. */
class Socket {
  constructor() {
    setTimeout(() => this.onopen());
  }

  send() {
    const frames = replies.length === 1 ? [replies.shift(), ...pushes] : [replies.shift()];
    for (const frame of frames) {
      setTimeout(() => this.onmessage({ data: bytes(frame).buffer }));
    }
  }

  close() {}
}

const client = new Centrifuge('ws://localhost/', { websocket: Socket });
client.on('error', ({ error }) => { throw new Error(JSON.stringify(error)); });
client.on('connected', () => {
  const payloads = [];
  const subscription = client.newSubscription('c', { delta: 'fossil' });
  subscription.on('publication', ({ data }) => {
    payloads.push(Buffer.from(data).toString('base64'));
    if (payloads.length === pushes.length) {
      const { numDeltaPayloads } = subscription.deltaStats();
      console.log(JSON.stringify({ payloads, numDeltaPayloads }));
      process.exit(0);
    }
  });
  subscription.subscribe();
});
client.connect();
