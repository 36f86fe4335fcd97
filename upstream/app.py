"""The sample API: what anybody's Flask app looks like before a gateway stands in front of it."""

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.get("/info")
def info() -> Response:
    """Tell what this service is."""
    return jsonify(service="sample-api", version="1.0", status="ok")


@app.route("/echo", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def echo() -> Response:
    """Repeat what arrived, to see that the way here changes nothing."""
    return jsonify(method=request.method, path=request.full_path.rstrip("?"), body=request.get_data(as_text=True))
