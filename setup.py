"""What pyproject.toml cannot say: with GATEWAY_COMPILE=1 the modules that every request passes through are compiled.

mypyc makes one extension of them, which Python takes in place of the files of the same names beside it. Where there is
none, the same files are interpreted. What compiles them is in requirements/compile.lock.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path("gateway")
COMPILED = ("http/*", "gate/*", "proxy/*", "server/*")  # the rooms that a request passes through,
COMPILED += ("auth/tokens", "blacklist/rules", "blacklist/stores/redis/lookups")  # and its way in others
COMPILED += ("ops/observe", "ops/request")
INTERPRETED = {
    # mypyc cannot make a class of a builtin one, nor of the thread's own,
    *("http/blocking", "http/disconnected", "http/strict_json"),
    # forgets that an attribute begins as None where a compiled protocol is its type,
    "http/protocols",
    # knows no weak references to compiled objects,
    *("server/poller", "proxy/files"),
    # and makes C of these that no compiler takes. They are on no request's way.
    *("proxy/resolve", "server/master"),
}


def extensions() -> list[Extension]:
    """Return the extensions to build."""
    if os.environ.get("GATEWAY_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    files = {path.relative_to(ROOT).with_suffix("") for pattern in COMPILED for path in ROOT.glob(f"{pattern}.py")}
    names = sorted(str(file) for file in files if file.name != "__init__")
    paths = [str(ROOT / f"{name}.py") for name in names if name not in INTERPRETED]
    # The types of other packages count for nothing, so that the same is made whether they are there or not.
    options = ["--config-file=", "--no-site-packages", "--ignore-missing-imports"]
    # A higher level takes half as long again to build, and saves nothing that could be measured.
    return mypycify([*options, *paths], group_name="gateway.native", opt_level="1", debug_level="0")


setup(ext_modules=extensions())
