"""Shells complete commands and flags, by the lines that the page says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT

pytestmark = pytest.mark.slow

# How each shell is asked what it would complete `gateway rev` to, once it has read its file.
ASKED = {
    "bash": [
        "bash",
        "--norc",
        "-c",
        ". ~/.gateway-complete.bash; COMP_WORDS=(gateway rev) COMP_CWORD=1; _gateway_completion gateway;"
        ' complete -p gateway > /dev/null && echo "${COMPREPLY[@]}"',
    ],
    # Its widgets need a terminal: that the function is there, and what it would be told.
    "zsh": [
        "zsh",
        "-f",
        "-i",
        "-c",
        "autoload -Uz compinit; compinit -u; . ~/.gateway-complete.zsh; whence -w $_comps[gateway] > /dev/null &&"
        ' COMP_WORDS="gateway rev" COMP_CWORD=1 _GATEWAY_COMPLETE=zsh_complete gateway',
    ],
    "fish": ["fish", "-c", "complete -C 'gateway rev'"],
}


@pytest.mark.parametrize("shell", ASKED)
def test_a_shell_completes_a_command_after_the_line_of_the_page(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    page = (ROOT / "docs/reference.md").read_text()
    [line] = re.findall(
        rf"^\| {shell} .*?\| `([^`]*_GATEWAY_COMPLETE={shell}_source gateway > [^`]*)` \|", page, re.MULTILINE
    )
    program = tmp_path / "programs/gateway"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m gateway "$@"\n')
    program.chmod(0o755)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
        "HOME": str(tmp_path),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    subprocess.run([shell, "-c", line], env=environ, check=True, timeout=60)
    asked = subprocess.run(ASKED[shell], env=environ, check=False, capture_output=True, text=True, timeout=60)
    assert re.search(r"^revoke\b", asked.stdout, re.MULTILINE), asked
    assert "restore" not in asked.stdout
