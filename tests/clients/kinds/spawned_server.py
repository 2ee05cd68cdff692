"""An aiohttp application as a user would write it: its port from PORT. Started by stickyd in tests/spawn/apps.rs."""

import os

from aiohttp import web


async def health(request):
    return web.Response(text="ok " + os.environ["STICKYD_INSTANCE"])


app = web.Application()
app.router.add_get("/health", health)
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
