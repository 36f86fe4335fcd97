"""Serve the sample API: `python -m upstream --port 35001`. SIGTERM and Ctrl-C end it."""

import argparse
import signal
import sys

from waitress import create_server

from upstream.app import app

parser = argparse.ArgumentParser(prog="python -m upstream", description="Serve the sample API.")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=35001, help="0 takes a free one")
options = parser.parse_args()

server = create_server(app, host=options.host, port=options.port)
print(f"sample upstream on http://{options.host}:{server.effective_port}", flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # process 1 of a container ignores it otherwise
server.run()
