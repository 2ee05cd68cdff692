// PM2's cluster mode with a port of its own for every instance: 3001, 3002, … (`increment_var` adds the instance's number).
//
//     pm2 start ecosystem.config.js          with stickyd.toml beside this file
//
// The application needs nothing but listen(process.env.PORT). One with a hard-coded port: ecosystem.portshift.config.js.
module.exports = {
  apps: [
    {
      name: 'app',
      script: './app.js',
      exec_mode: 'cluster',
      instances: 4,
      increment_var: 'PORT',
      env: { PORT: 3001 },
    },
  ],
};
