"""The gateway people write: Flask, flask-jwt-extended's blocklist, requests.Session."""

import os

import requests
from flask import Flask, Response, jsonify, request
from flask_jwt_extended import JWTManager, get_jwt, jwt_required

UPSTREAM = os.environ["UPSTREAM"]
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
EXCLUDED = HOP_BY_HOP | {"content-encoding", "content-length"}

app = Flask(__name__)
app.config.update(JWT_SECRET_KEY=os.environ["SECRET"], JWT_DECODE_ISSUER=os.environ["ISSUER"], JWT_ALGORITHM="HS256")
jwt = JWTManager(app)
session = requests.Session()
blocklist: set[str] = set()


@jwt.token_in_blocklist_loader
def is_blocked(_header: dict, payload: dict) -> bool:
    return payload["jti"] in blocklist


@app.post("/blacklist")
@jwt_required()
def blacklist() -> Response:
    blocklist.add(get_jwt()["jti"])
    return jsonify(success=True)


@app.route("/", defaults={"path": ""}, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@app.route("/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@jwt_required()
def forward(path: str) -> Response:
    answer = session.request(
        request.method,
        f"{UPSTREAM}/{path}",
        params=request.args,
        headers={name: value for name, value in request.headers if name.lower() not in EXCLUDED},
        data=request.get_data(),
        allow_redirects=False,
        timeout=(3, 60),
    )
    fields = [(name, value) for name, value in answer.headers.items() if name.lower() not in EXCLUDED]
    return Response(answer.content, answer.status_code, fields)
