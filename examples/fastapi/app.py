"""A FastAPI app that is guarded in its own process: a2wsgi makes the ASGI app a WSGI one. WebSockets stay outside."""

import logging
import time
import uuid
from typing import Annotated
from urllib.parse import parse_qs

import jwt
from a2wsgi import ASGIMiddleware
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

import gateway

handler = logging.StreamHandler()
handler.setFormatter(gateway.LogFormatter("json"))
logging.basicConfig(level="INFO", handlers=[handler])

app = FastAPI()
settings = gateway.Settings(issuer="https://shop.example/", public_paths="/login,/docs,/openapi.json")
gate = gateway.Gateway(ASGIMiddleware(app), settings)
application = gateway.observe(gate)

# The gateway sets the subject, and removes what a client sends in its place; it has verified the token, too.
User = Annotated[str, Header(alias="X-Token-Subject")]
Credentials = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]


@app.post("/login", response_class=PlainTextResponse)
async def login(request: Request):
    """Take a form, which FastAPI itself reads where python-multipart is installed."""
    user = parse_qs((await request.body()).decode())["user"][0]  # and a password, which is your part
    now = int(time.time())
    claims = {"iss": settings.issuer, "sub": user, "iat": now, "exp": now + 900, "jti": uuid.uuid4().hex}
    return f"Authorization: Bearer {jwt.encode(claims, settings.secret[0].get_secret_value())}\n"


@app.get("/me")
def me(user: User):
    return {"user": user}


@app.post("/logout")
def logout(credentials: Credentials):
    gate.blacklist(token=credentials.credentials, reason="logged out")
    return {"message": "Logged out here."}


@app.post("/logout/everywhere")
def logout_everywhere(user: User):
    gate.blacklist(sub=user, reason="logged out everywhere")
    return {"message": "Logged out everywhere."}


@app.exception_handler(gateway.Problem)
def refused(request: Request, problem: gateway.Problem):
    """The blacklist could not be changed: whoever was told otherwise would be wrong."""
    return JSONResponse({"message": problem.detail}, problem.status)
