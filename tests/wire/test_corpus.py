"""The kept corpora of the fuzzing, replayed: whatever the bytes, no promise of `fuzz/targets.py` is broken."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
FILES = sorted(CORPUS.glob("*/*"))
# What is well-formed and allowed; all else is refused.
READ = {
    "token": {"good", "surrogate", "kid", "exp-huge"},
    "body": {"claim", "token", "form", "form-claim", "number", "surrogate"},
    "head": {"get", "length", "chunked", "two", "absolute", "underscore", "star", "empty-lines", "latin"},
    "answer": {"json", "empty", "interim", "lengths", "connection", "own", "nested", "latin"},
    "settings": {"plain", "json", "issuers"},
}


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS) == set(READ)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Keep what the collector calls from running out of stack, where a text is nested too deeply."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_an_input_of_the_corpus_breaks_nothing(file: Path) -> None:
    target = file.parent.name
    outcome = TARGETS[target](file.read_bytes())
    assert (outcome == "read") == (file.name in READ[target]), outcome
