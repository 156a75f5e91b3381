// fs.createReadStream, and its lines.
const fs = require('node:fs');
const readline = require('node:readline');

const stream = fs.createReadStream(process.argv[2]);
stream.on('open', () => console.log('ready'));
stream.on('error', (error) => { console.log('end', error.code); process.exit(); });
stream.on('end', () => { console.log('end end of file'); process.exit(); });
readline.createInterface({ input: stream }).on('line', (line) => console.log('told', line));
