// fs.read, one at a time: a thread of the pool, blocked in read(). Node, Deno and Bun.
const fs = require('node:fs');

const fd = fs.openSync(process.argv[2]);
const text = Buffer.alloc(4096);
console.log('ready');

function next() {
  fs.read(fd, text, 0, text.length, null, (error, got) => {
    if (error || got === 0) {
      console.log('end', error ? error.code : 'end of file');
      process.exit();
    }
    console.log('told', text.toString('latin1', 0, got).trim());
    next();
  });
}
next();
