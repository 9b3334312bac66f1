// Follows the channel `state` with deltas: JSON and Protobuf, over several transports.
//
// The first argument is the URL of a proxy that cuts connections, and the second one the
// number of the last publication. Each line of the output is a publication: the name of
// the client, its offset, and its text in base64.

import { Centrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

const [address, lastOffset] = process.argv.slice(2);
const options = {
  websocket: WebSocket,
  fetch,
  readableStream: ReadableStream,
  eventsource: EventSource,
  emulationEndpoint: `http://${address}/emulation`,
  minReconnectDelay: 20,
  maxReconnectDelay: 100,
};
const clients = {
  json: new Centrifuge(`ws://${address}/connection/websocket`, options),
  protobuf: new ProtobufCentrifuge(`ws://${address}/connection/websocket`, options),
};
for (const transport of ['http_stream', 'sse']) {
  const endpoint = `http://${address}/connection/${transport}`;
  clients[transport] = new Centrifuge([{ transport, endpoint }], options);
}

const deltas = {};
let following = 0;
for (const [name, client] of Object.entries(clients)) {
  const subscription = client.newSubscription('state', { delta: 'fossil' });
  subscription.on('publication', ({ data, offset }) => {
    const text = name === 'protobuf' ? Buffer.from(data) : Buffer.from(JSON.stringify(data));
    console.log(JSON.stringify([name, offset, text.toString('base64')]));
    if (offset === Number(lastOffset)) {
      deltas[name] = subscription.deltaStats().numDeltaPayloads;
      client.disconnect();
      if (Object.keys(deltas).length === Object.keys(clients).length) {
        console.log(JSON.stringify(deltas));
        process.exit(0);
      }
    }
  });
  subscription.once('subscribed', () => {
    following += 1;
    if (following === Object.keys(clients).length) {
      console.log('following');
    }
  });
  subscription.subscribe();
  client.connect();
}
