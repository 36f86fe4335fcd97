"""The commands; the only modules that print or exit."""

from __future__ import annotations

import os
import sys
from io import FileIO, TextIOWrapper

import click

from gateway.cli import accept, check, entries, poll, run, tokens, transfer
from gateway.cli.options import UNAVAILABLE, USAGE
from gateway.cli.output import echo
from gateway.config.announce import misspelled_names
from gateway.config.faults import faults
from gateway.http.build import BUILD, VERSION
from gateway.http.problems import Problem


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(f"{VERSION} ({BUILD})", prog_name="gateway")
def gateway() -> None:
    """Make stateless JWTs revocable.

    Every setting is an environment variable GATEWAY_<NAME>, or a flag of the same name.
    Exit codes: 0 done, 1 "it is blacklisted" (status) or "No" (accept-store), 2 wrong usage or
    settings, 3 the blacklist store, or an issuer's keys, are unavailable.
    """


for command in (
    run.serve,
    run.demo,
    check.check_config,
    tokens.token,
    poll.poll_events,
    entries.revoke,
    entries.restore,
    entries.status,
    entries.list_entries,
    entries.purge,
    accept.accept_store,
    transfer.export,
    transfer.import_entries,
):
    gateway.add_command(command)


def main() -> None:
    """Run a command; faults become one clear page on standard error, never a stack trace."""
    _hold_standard_streams()
    try:
        gateway(prog_name="gateway")
    except Problem as problem:
        echo(f"gateway: {problem.detail}", err=True)
        sys.exit(UNAVAILABLE if problem.status == 503 else USAGE)
    except ValueError as error:  # pydantic's ValidationError, StoreRefused and KeysRefused are some
        echo("gateway: this cannot work as it is set up:", err=True)
        for fault in [*faults(error), *misspelled_names()]:
            echo(f"  - {fault}", err=True)
        sys.exit(USAGE)
    except OSError as error:
        echo(f"gateway: {error.filename}: {error.strerror}" if error.filename else f"gateway: {error}", err=True)
        sys.exit(USAGE)


def _hold_standard_streams() -> None:
    """Open the standard streams that are closed: a socket or the store's file in their place would be written to.

    Whoever reads the input or writes the output then fails with "Bad file descriptor"; what goes to standard error is
    lost.
    """
    for descriptor, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free is this one
    sys.stdin = sys.stdin or TextIOWrapper(FileIO(0, closefd=False))
    sys.stdout = sys.stdout or TextIOWrapper(FileIO(1, "w", closefd=False), write_through=True)
    sys.stderr = sys.stderr or TextIOWrapper(FileIO(2, "w", closefd=False), write_through=True)
