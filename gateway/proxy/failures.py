"""Why there is no answer from the upstream: the refusal for the client, and the cause for the log."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pycurl

from gateway.http.problems import Problem

MAX_CAUSE = 200  # characters
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)

# libcurl's numbers, which pycurl does not name.
_WEIRD_REPLY, _TOO_LARGE = 8, 100
_MALFORMED = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_BAD_CONTENT_ENCODING, _WEIRD_REPLY, _TOO_LARGE})
_TLS = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ISSUER_ERROR, pycurl.E_SSL_CRL_BADFILE,
        pycurl.E_SSL_ENGINE_INITFAILED, pycurl.E_USE_SSL_FAILED,
    }
)  # fmt: skip


class UpstreamFailed(Problem):
    """The upstream did not answer. `cause` is for the log: fixed words, and the system's or libcurl's own.

    `was_connected` is false where nothing was sent, because no connection came about.
    """

    def __init__(self, code: str, cause: str, *, was_connected: bool = True) -> None:
        super().__init__(code)
        self.cause = "".join(filter(str.isprintable, cause))[:MAX_CAUSE]
        self.was_connected = was_connected


def malformed(what: str) -> UpstreamFailed:
    """Return the failure of an upstream whose answer is not HTTP/1.x as RFC 9112 has it."""
    return UpstreamFailed("upstream-protocol", f"malformed answer: {what}")


def failure(code: int, message: str, error: int) -> UpstreamFailed:
    """Return what libcurl's number and message mean; `error` is the errno of the connection."""
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return UpstreamFailed("upstream-timeout", "timed out while connecting", was_connected=False)
    # A head beyond 300 KiB, and bad chunks, come with the number of a broken connection.
    if code in _MALFORMED or message.startswith("Too large response headers") or "chunk" in message:
        return malformed(message or "libcurl cannot read it")
    if code == pycurl.E_COULDNT_CONNECT and not error:
        error = _missing_descriptor()
    if error in NO_DESCRIPTOR:
        return UpstreamFailed("overloaded", _cause(code, message, error), was_connected=False)
    was_connected = code != pycurl.E_COULDNT_CONNECT and code not in _TLS
    return UpstreamFailed("upstream-unreachable", _cause(code, message, error), was_connected=was_connected)


def _cause(code: int, message: str, error: int) -> str:
    # An alert, such as that a certificate is required, comes with the number of a broken connection.
    if code in _TLS or "SSL routines" in message:
        return f"TLS fault: {message}"
    if code == pycurl.E_GOT_NOTHING:
        return "closed before the head"
    if code == pycurl.E_PARTIAL_FILE:
        return "closed within the body"
    if error == errno.ECONNREFUSED:
        return "connection refused"
    if error in (errno.ECONNRESET, errno.EPIPE):
        return "connection reset"
    # libcurl's message names the address alone; the system says why.
    return f"connection failed: {os.strerror(error)}" if error else f"connection failed: {message}"


def _missing_descriptor() -> int:
    """Return the errno of a process that has no descriptor left, which libcurl does not tell; else 0."""
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno or 0
    return 0


def connection_failure(error: OSError, *, was_connected: bool = True) -> UpstreamFailed:
    """Return what it means that a connection of our own failed, in the same words."""
    if isinstance(error, ssl.SSLError):
        # The reason may be None, which its type denies: compiled code would raise TypeError.
        cause = f"TLS fault: {getattr(error, 'verify_message', '') or getattr(error, 'reason', '') or error}"
    else:
        cause = _cause(0, str(error), error.errno or 0)
    code = "overloaded" if error.errno in NO_DESCRIPTOR else "upstream-unreachable"
    return UpstreamFailed(code, cause, was_connected=was_connected)
