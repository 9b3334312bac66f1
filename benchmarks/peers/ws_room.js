// A room with ws on Node, by hand.
const { WebSocket, WebSocketServer } = require('ws');

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]) });
const members = new Set();
server.on('connection', (socket, request) => {
  if (request.url === '/pub') {
    socket.on('message', (data) => {
      const text = data.toString();
      for (const member of members) {
        if (member.readyState === WebSocket.OPEN) member.send(text);
      }
    });
    return;
  }
  members.add(socket);
  socket.on('close', () => members.delete(socket));
});
