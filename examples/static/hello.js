// The page's WebSocket: connects, sends what is typed, lists the answers, and comes
// back by itself when the connection ends. The console has its events.
'use strict';

const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 15000;
const STABLE_MS = 5000;
const MAX_ITEMS = 1000;

const state = document.getElementById('status');
const form = document.getElementById('form');
const field = document.getElementById('text');
const button = document.getElementById('send');
const messages = document.getElementById('messages');

const url = new URL(document.body.dataset.websocketPath, location.href);
url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';

let socket = null;
let timer = null;
let failures = 0;

function show(name) {
  state.dataset.state = name;
  state.textContent = name;
  button.disabled = name !== 'connected';
}

function add(text) {
  const item = document.createElement('li');
  item.textContent = text; // never innerHTML: a message is somebody else's text
  messages.append(item);
  while (messages.childElementCount > MAX_ITEMS) messages.firstElementChild.remove();
  item.scrollIntoView({ block: 'nearest' });
}

function connect() {
  clearTimeout(timer);
  timer = null;
  show('connecting');
  let openedAt = null;
  socket = new WebSocket(url);
  socket.onopen = () => {
    console.log('open');
    openedAt = performance.now();
    show('connected');
  };
  socket.onmessage = (event) => {
    console.log('message', event.data);
    add(event.data);
  };
  socket.onclose = (event) => {
    console.log('close', event.code, event.reason);
    const stable = openedAt !== null && performance.now() - openedAt > STABLE_MS;
    failures = stable ? 0 : failures + 1;
    show('disconnected');
    // Twice as long each time, and a random part of it: when a server comes back,
    // its clients must not all arrive in the same instant.
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

// The network is back: do not wait for the timer.
addEventListener('online', () => {
  if (timer !== null) connect();
});

connect();
