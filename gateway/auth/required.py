"""Claims that a token must have: REQUIRED_CLAIMS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.http.problems import Problem
from gateway.http.values import find_claim, number_text, value_texts


@dataclass(frozen=True, slots=True)
class Requirement:
    """A claim that must be there, and have one of the values, if any are named."""

    name: str
    values: frozenset[str]

    def check(self, claims: dict[str, Any]) -> None:
        """Raise `Problem` missing-claim or invalid-claim unless the claims meet this.

        Values are compared as those of entries are, members of a list each; true and false by their names.
        """
        value = find_claim(claims, self.name)
        found = value_texts(value)
        if self.values and isinstance(value, bool):
            found = ["true" if value else "false"]
        # Without values, a claim that has no value of its own counts as absent.
        if not found and not (isinstance(value, dict) and value):
            raise Problem("missing-claim", f"The token lacks the claim {self.name}.")
        if self.values and self.values.isdisjoint(found):
            raise Problem("invalid-claim", f"The token's claim {self.name} has none of the required values.")


def read_requirement(text: str) -> Requirement:
    """Return what `name`, `name=value` or `name=a|b` asks for. Raises ValueError for anything else."""
    name, equals, values = text.partition("=")
    wanted = values.split("|") if equals else []
    if not name or not all(wanted):
        raise ValueError("every required claim must be name, name=value or name=a|b")
    numbers = filter(None, map(number_text, wanted))
    return Requirement(name, frozenset((*wanted, *numbers)))
