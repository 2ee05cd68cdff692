"""python-socketio as a client that a guard may refuse: prints what its application sees, and how often it tried."""

import asyncio
import json
import sys

import socketio


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


async def main():
    options = json.loads(sys.argv[1])
    client = socketio.AsyncClient(reconnection=True, reconnection_delay=0.05, reconnection_delay_max=0.1)
    namespaces = options.get("namespaces", ["/"])

    for namespace in namespaces:
        client.on("connect", lambda ns=namespace: say("connect", ns=ns), namespace=namespace)

        def refused(data=None, ns=namespace):
            code = (data.get("data") or {}).get("code") if isinstance(data, dict) else None
            message = data.get("message") if isinstance(data, dict) else str(data)
            say("error", ns=ns, message=message, code=code)

        client.on("connect_error", refused, namespace=namespace)
    try:
        await client.connect(
            options["url"],
            auth=options.get("auth"),
            transports=options.get("transports"),
            namespaces=namespaces,
            headers=options.get("extraHeaders", {}),
        )
        say("echo", value=await client.call("echo", "x", namespace=namespaces[0]))
    except socketio.exceptions.ConnectionError as error:
        say("refused", text=str(error))
    await asyncio.sleep(options.get("settle", 1500) / 1000)
    await client.disconnect()
    say("end")


asyncio.run(main())
