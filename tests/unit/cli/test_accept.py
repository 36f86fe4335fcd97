"""What a log's audit records say of the entries that there should be."""

import io
import json

from gateway.blacklist.keys import token_key
from gateway.cli.accept import _read_added


def test_an_entry_that_somebody_failed_to_lift_is_still_to_be_there() -> None:
    about = [("a", "add", True), ("b", "add", True), ("a", "remove", False), ("b", "remove", True)]
    records = [
        {"logger": "gateway.audit", "fingerprint": digits, "action": action, "changed": changed}
        for digits, action, changed in about
    ]
    assert list(_read_added(io.StringIO("\n".join(map(json.dumps, records))))) == [token_key("a")]
