// The package epoll of npm.
const fs = require('node:fs');
const { Epoll } = require('epoll');

const fd = fs.openSync(process.argv[2], fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
const text = Buffer.alloc(4096);
const poller = new Epoll((error, fd, events) => {
  if (process.argv[3] === 'poll' && !(events & ~Epoll.EPOLLIN)) {
    console.log('woken');
    return;
  }
  try {
    const got = fs.readSync(fd, text, 0, text.length, null);
    console.log('told', text.toString('latin1', 0, got).trim());
  } catch (failed) {
    if (failed.code === 'EAGAIN' && !(events & ~Epoll.EPOLLIN)) {
      console.log('empty');
    } else {
      console.log('end events', events, failed.code);
      process.exit();
    }
  }
});
poller.add(fd, Epoll.EPOLLIN);
console.log('ready');
