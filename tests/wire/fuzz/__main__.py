"""Coverage-guided fuzzing of one target: `python tests/wire/fuzz TARGET`, then libFuzzer's options. See `make fuzz`."""

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2] / "support")]
with atheris.instrument_imports(include=["gateway"]):
    from targets import TARGETS

target = TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, lambda data: target(data) and None)
atheris.Fuzz()
