"""A Flask app that is guarded in its own process."""

import logging
import time
import uuid

import jwt
from flask import Flask, request
from prometheus_client import REGISTRY, make_wsgi_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import gateway

# Every change of the blacklist is told by the logger gateway.audit, every request by gateway.access.
handler = logging.StreamHandler()
handler.setFormatter(gateway.LogFormatter("json"))
logging.basicConfig(level="INFO", handlers=[handler])

settings = gateway.Settings(issuer="https://shop.example/", public_paths="/login")
app = Flask(__name__)
gate = gateway.Gateway(app.wsgi_app, settings)
# In production let /metrics be a port of its own, which nobody outside can reach.
app.wsgi_app = DispatcherMiddleware(gateway.observe(gate, REGISTRY), {"/metrics": make_wsgi_app(REGISTRY)})


@app.post("/login")
def login():
    user = request.form["user"]  # and a password, which is your part
    now = int(time.time())
    claims = {"iss": settings.issuer, "sub": user, "iat": now, "exp": now + 900, "jti": uuid.uuid4().hex}
    token = jwt.encode(claims, settings.secret[0].get_secret_value())
    return f"Authorization: Bearer {token}\n"


@app.get("/me")
def me():
    return {"user": request.environ["gateway.claims"]["sub"]}


@app.post("/logout")
def logout():
    gate.blacklist(token=request.authorization.token, reason="logged out")
    return {"message": "Logged out here."}


@app.post("/logout/everywhere")
def logout_everywhere():
    gate.blacklist(sub=request.environ["gateway.claims"]["sub"], reason="logged out everywhere")
    return {"message": "Logged out everywhere."}


@app.errorhandler(gateway.Problem)
def refused(problem):
    """The blacklist could not be changed: whoever was told otherwise would be wrong."""
    return {"message": problem.detail}, problem.status
