// An HTTP server on a unix socket: its counter must survive.
const http = require('http');
let count = 0, sum = 0;
const tick = setInterval(() => { sum = (Math.imul(sum, 31) + 7) | 0; }, 5);
http.createServer((q, s) => {
  let body = '';
  q.on('data', (d) => { body += d; });
  q.on('end', () => {
    if (q.url === '/end') { s.end('bye\n'); process.exit(0); }
    if (q.url === '/state') { s.setHeader('Connection', 'close'); s.end(`${count}\n`); return; }
    count += body.length;
    s.setHeader('Connection', 'close');
    s.end('ok\n');
  });
}).listen('sock');
