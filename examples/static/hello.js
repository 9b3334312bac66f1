// Connects a WebSocket, sends the typed text, and lists the answers. It reconnects
// automatically, and logs all events to the console.
'use strict';

const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 15000;
const STABLE_MS = 5000;
const MAX_ITEMS = 1000;

const statusLine = document.getElementById('status');
const form = document.getElementById('form');
const field = document.getElementById('text');
const button = document.getElementById('send');
const messages = document.getElementById('messages');

const url = new URL(document.body.dataset.websocketPath, location.href);
url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';

let socket = null;
let timer = null;
let failures = 0;

function showState(state) {
  statusLine.dataset.state = state;
  statusLine.textContent = state;
  button.disabled = state !== 'connected';
}

function addMessage(text) {
  const item = document.createElement('li');
  item.textContent = text; // never innerHTML: a message can contain malicious markup
  messages.append(item);
  while (messages.childElementCount > MAX_ITEMS) messages.firstElementChild.remove();
  item.scrollIntoView({ block: 'nearest' });
}

function connect() {
  clearTimeout(timer);
  timer = null;
  showState('connecting');
  let openedAt = null;
  socket = new WebSocket(url);
  socket.onopen = () => {
    console.log('open');
    openedAt = performance.now();
    showState('connected');
  };
  socket.onmessage = (event) => {
    console.log('message', event.data);
    addMessage(event.data);
  };
  socket.onclose = (event) => {
    console.log('close', event.code, event.reason);
    const stable = openedAt !== null && performance.now() - openedAt > STABLE_MS;
    failures = stable ? 0 : failures + 1;
    showState('disconnected');
    // The delay doubles with each failure and has a random part. Otherwise all clients
    // would reconnect at the same moment after a restart of the server.
    const delay = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** failures);
    timer = setTimeout(connect, delay * (0.5 + Math.random() / 2));
  };
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(field.value);
  field.value = '';
  field.focus();
});

// When the network is back, connect without waiting for the timer.
addEventListener('online', () => {
  if (timer !== null) connect();
});

connect();
