// Opens an EventSource and prints its events, until the process is killed.

import { EventSource } from 'eventsource';

const source = new EventSource(process.argv[2]);
source.onmessage = ({ data }) => console.log(data);
source.onerror = () => console.log(`readyState ${source.readyState}`);
source.addEventListener('end', ({ data }) => console.log(`end ${data}`));
// NOTE: a stream may begin with this event each time. Only the first one is printed.
source.addEventListener('start', () => console.log('start'), { once: true });
