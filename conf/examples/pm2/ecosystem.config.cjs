// PM2's cluster mode with a separate port for every instance: 3001, 3002, … (`increment_var` adds the instance's
// number).
//
//     pm2 start ecosystem.config.cjs          (and stickyd with the stickyd.toml in this folder)
//
// With `instances: 'max'` the range in stickyd.toml needs at least one port per core; unused ports do no harm.
//
// The application only has to call listen(process.env.PORT). For a hard-coded port see ecosystem.portshift.config.cjs.
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
