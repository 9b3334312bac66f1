// A plain WebSocket: logs that it opens, each message, and that it closes, on the page
// and in the console; connects again by itself.
'use strict';

const MAX_DELAY_MS = 15000;
const MAX_ITEMS = 1000;

const state = document.getElementById('status');
const form = document.getElementById('form');
const field = document.getElementById('text');
const button = document.getElementById('send');
const messages = document.getElementById('messages');

const url = new URL(document.body.dataset.websocketPath, location.href);
url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';

let socket = null;
let delay = 250;

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
  show('connecting');
  socket = new WebSocket(url);
  socket.onopen = () => {
    console.log('open');
    delay = 250;
    show('connected');
  };
  socket.onmessage = (event) => {
    console.log('message', event.data);
    add(event.data);
  };
  socket.onclose = (event) => {
    console.log('close', event.code, event.reason);
    show('disconnected');
    // Twice as long each time, and a random part of it: when a server comes back,
    // its clients must not all arrive in the same instant.
    delay = Math.min(MAX_DELAY_MS, delay * 2);
    setTimeout(connect, delay * (0.5 + Math.random() / 2));
  };
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(field.value);
  field.value = '';
  field.focus();
});

connect();
