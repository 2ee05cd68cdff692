"""A receiver of OpenTelemetry traces (OTLP over HTTP), which decodes with the project's own messages.

usage: otlp.py [CERTIFICATE KEY]. Prints {"port"} and then one line per request: path, headers, the answer's status, the
attributes of the resource, and the spans. Commands on stdin, one per line: {"answer": STATUS, "times": N, "body": TEXT,
"after": SECONDS} sets the next answers; 0 is silence.
"""

import asyncio
import json
import ssl
import sys

from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

planned = []


def say(value):
    print(json.dumps(value), flush=True)


def facts(attributes):
    def value(any_value):
        return getattr(any_value, any_value.WhichOneof("value"))

    return {one.key: value(one.value) for one in attributes}


def shown(span):
    return {
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "name": span.name,
        "kind": type(span).SpanKind.Name(span.kind),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "error": span.status.code == 2,
        "facts": facts(span.attributes),
    }


async def traces(request):
    body = await request.read()
    message = service.ExportTraceServiceRequest.FromString(body)
    resource, spans = {}, []
    for part in message.resource_spans:
        resource.update(facts(part.resource.attributes))
        for scope in part.scope_spans:
            spans.extend(shown(span) for span in scope.spans)
    plan = planned.pop(0) if planned else None
    status = plan["answer"] if plan else 200
    say({"path": request.path, "headers": {k.lower(): v for k, v in request.headers.items()}, "status": status,
         "resource": resource, "spans": spans})
    kind = {"content-type": "application/x-protobuf"}
    if status == 0:
        await asyncio.sleep(3600)
    if plan:
        after = {"retry-after": str(plan["after"])} if "after" in plan else {}
        return web.Response(status=status, body=plan.get("body", "").encode(), headers=kind | after)
    return web.Response(body=service.ExportTraceServiceResponse().SerializeToString(), headers=kind)


async def main():
    app = web.Application()
    app.router.add_post("/{path:.*}", traces)
    runner = web.AppRunner(app)
    await runner.setup()
    tls = None
    if len(sys.argv) > 2:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(sys.argv[1], sys.argv[2])
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    say({"port": site._server.sockets[0].getsockname()[1]})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        plan = json.loads(line)
        planned[:] = [plan] * plan.get("times", 1)
        say({"planned": True})


asyncio.run(main())
# A silent request would keep the process.
sys.exit(0)
