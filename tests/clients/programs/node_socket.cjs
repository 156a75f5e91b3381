// net.Socket, or with a third argument tty.ReadStream, on a descriptor: neither takes what is no socket and no terminal.
const fs = require('node:fs');
const net = require('node:net');
const tty = require('node:tty');

const fd = fs.openSync(process.argv[2], fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
console.log('ready');
try {
  const stream = process.argv[4] ? new tty.ReadStream(fd) : new net.Socket({ fd, readable: true, writable: false });
  stream.on('data', (text) => console.log('told', text.toString().trim()));
  stream.on('error', (error) => { console.log('end', error.code); process.exit(); });
} catch (error) {
  console.log('end', error.code, error.message.split('\n')[0]);
}
