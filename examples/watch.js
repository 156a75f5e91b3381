#!/usr/bin/env node
// Watch /dev/mem_notify from Node.js (no packages needed).
//
// Run:     node watch.js [DEVICE [COUNT]]     DEVICE: default /dev/mem_notify; COUNT: end after so many
//                                             notifications, default 0: never
// Try it:  sudo memnotify simulate --for 2
//
// A blocked read keeps the machine from going to sleep, unless memnotify-suspend.service is there
// (docs/reliability.md).
// Prints one line per notification: its record. Exit codes: 0 after COUNT notifications; 1 when the device
// fails. SIGTERM and SIGINT end it by their default action: a handler that called process.exit() would wait
// for the thread that is blocked in read().
'use strict';

const fs = require('node:fs/promises');

const [device = '/dev/mem_notify', count = '0'] = process.argv.slice(2);

async function main() {
  const file = await fs.open(device);
  console.error(`watching ${device}`);
  const chunk = Buffer.alloc(4096);
  let text = '';
  let told = 0;
  // One read at a time, in a thread of the pool. A stream would read ahead, and keep the program from ending
  // after COUNT notifications.
  for (;;) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length, null);
    if (bytesRead === 0) {
      throw new Error('end of file');
    }
    const lines = (text + chunk.toString('latin1', 0, bytesRead)).split('\n');
    text = lines.pop();
    for (const line of lines) {
      console.log(line);
      told += 1;
      if (told === Number(count)) {
        await file.close();
        return;
      }
    }
  }
}

main().catch((error) => {
  console.error(`watch.js: ${device}: ${error.message}`);
  process.exitCode = 1;
});
