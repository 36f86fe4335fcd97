"""A certified OpenID provider, npm's oidc-provider, as a process of its own: see openid_provider.mjs."""

import json
import subprocess
from typing import Any

from processes import ROOT

INSTALLED = (ROOT / "node_modules/oidc-provider").exists()


class OpenIdProvider:
    """tests/support/openid_provider.mjs as a process."""

    def __init__(self, port: int, logout_url: str, *flags: str) -> None:
        script = ROOT / "tests/support/openid_provider.mjs"
        self._process = subprocess.Popen(
            ["node", "--no-warnings", str(script), str(port), logout_url, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.issuer = self._answer()["issuer"]

    def __call__(self, action: str, name: str, **members: str) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": action, "as": name, **members}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise AssertionError("the provider has ended")
            if line.startswith("{"):  # it warns on its standard output
                answer = json.loads(line)
                assert "error" not in answer, answer
                return answer

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
