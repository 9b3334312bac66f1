// Opens an EventSource and prints its events, until the process is killed.

import { EventSource } from 'eventsource';

const source = new EventSource(process.argv[2]);
source.onmessage = ({ data }) => console.log(data);
source.onerror = () => console.log(`readyState ${source.readyState}`);
