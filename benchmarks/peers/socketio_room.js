// A room with socket.io on Node.
const { Server } = require('socket.io');

const io = new Server({ pingInterval: 300000, cors: { origin: '*' } });
io.on('connection', (socket) => {
  socket.on('message', (data) => io.emit('message', data));
});
io.listen(Number(process.argv[2]));
