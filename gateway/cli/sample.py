"""The sample API behind `gateway demo`: `python -m gateway.cli.sample --port 35001`. It knows nothing of tokens."""

from __future__ import annotations

import json
import logging

import click
from werkzeug import Request, Response
from werkzeug.serving import make_server


@Request.application
def app(request: Request) -> Response:
    """Answer `/info` with what this is, and `/echo` with what arrived, to see that the way here changes nothing."""
    if request.path == "/info" and request.method in ("GET", "HEAD"):
        return _json(service="sample-api", version="1.0", status="ok")
    if request.path == "/echo":
        return _json(method=request.method, path=request.environ["RAW_URI"], body=request.get_data(as_text=True))
    return Response(status=404)


def _json(**members: str) -> Response:
    return Response(json.dumps(members) + "\n", content_type="application/json")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, required=True)
def main(host: str, port: int) -> None:
    """Serve the sample API until a signal ends it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the gateway logs each request
    make_server(host, port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
