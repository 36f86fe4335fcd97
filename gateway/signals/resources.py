"""The resources of signals by path; each is there only when something is set for it."""

from __future__ import annotations

from gateway.auth.tokens import Verifier
from gateway.blacklist.rules import Blacklist
from gateway.http.wsgi import App
from gateway.signals.answers import Resource
from gateway.signals.clients import Clients
from gateway.signals.events import ERRORS, Events
from gateway.signals.logout import Logout
from gateway.signals.record import Recorder
from gateway.signals.revocation import PATH, Revocation
from gateway.signals.senders import EVENTS, LOGOUT, REVOCATION
from gateway.signals.tokens import INTROSPECT, REVOKE, Tokens


def signal_resources(
    recorder: Recorder, clients: Clients, verifier: Verifier, blacklist: Blacklist, resource: str | None
) -> dict[str, App]:
    """Return what senders and clients may ask of the resource with this URL; what nobody may ask is not there."""
    issuers, tokens = verifier.issuers, Tokens(clients, verifier, blacklist)
    taken = {kind for sender in recorder.senders.all for kind in sender.takes}
    found: dict[str, App] = {}
    if LOGOUT in taken:
        found["/-/logout"] = Resource(LOGOUT, Logout(recorder))
    if REVOCATION in taken:
        found[PATH] = Resource(REVOCATION, Revocation(recorder, issuers, resource))
    if EVENTS in taken:
        found["/-/events"] = Resource(EVENTS, Events(recorder, issuers), names=("err", "description"), errors=ERRORS)
    if clients.any_may(REVOKE):
        found["/-/revoke"] = Resource(REVOKE, tokens.revoke)
    if clients.any_may(INTROSPECT):
        found["/-/introspect"] = Resource(INTROSPECT, tokens.introspect)
    return found
