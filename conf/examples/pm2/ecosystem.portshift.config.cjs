// For an application with a hard-coded port (3001 here): portshift.cjs turns it into 3001, 3002, … and the application
// stays unchanged.
//
//     pm2 start ecosystem.portshift.config.cjs
//
// Use `node_args`, not NODE_OPTIONS: in cluster mode PM2 starts the instances itself, and NODE_OPTIONS is read too
// late.
const path = require('node:path');

module.exports = {
  apps: [
    {
      name: 'app',
      script: './app.js',
      exec_mode: 'cluster',
      instances: 4,
      node_args: `-r ${path.join(__dirname, 'portshift.cjs')}`,
      env: { STICKYD_PORT: 3001 }, // the hard-coded port; other ports of the application are not changed
    },
  ],
};
