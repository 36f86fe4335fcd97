"""Single measurements, each with its own command. Gateways and other servers are started as the tests do it."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[2] / "tests" / folder) for folder in ("support", "stores")]
