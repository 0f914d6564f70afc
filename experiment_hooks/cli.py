"""The command ``episight``: what there is, and which function does it.

Runs in a process of its own, never in an experiment. Needs what the hooks need and no
more, so that it works where the experiment does.
"""

import argparse
import os
import sys
from typing import Optional, Sequence

from experiment_hooks._version import __version__
from experiment_hooks.cli_check import check
from experiment_hooks.cli_keys import keys
from experiment_hooks.cli_replay import replay
from experiment_hooks.cli_run import run_command
from experiment_hooks.cli_token import token


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Do what the command line says, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="episight", description="Insight into experiments that run in episodes."
    )
    parser.add_argument(
        "--version", action="version", version=f"episight {__version__}"
    )
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a command, with an exporter started where none answers",
        usage="episight run [--keep] -- COMMAND [ARGUMENT ...]",
    )
    run.add_argument(
        "--keep", action="store_true", help="leave a started exporter running"
    )
    run.add_argument("command", nargs=argparse.REMAINDER)
    commands.add_parser(
        "check", help="say whether an experiment started here would be seen"
    )
    replayed = commands.add_parser(
        "replay",
        help="deliver what experiments left on disk while no exporter was there",
    )
    replayed.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="a spool file or directory; without it, what was left for this endpoint",
    )
    made = commands.add_parser(
        "keys", help="make keys, for an exporter that listens beyond this machine"
    )
    made.add_argument("directory", help="for the exporter: security.curve_dir")
    made.add_argument(
        "names",
        nargs="*",
        default=["experiments"],
        metavar="NAME",
        help="whose keys to make beside the exporter's (default: experiments)",
    )
    commands.add_parser(
        "token", help="print the token of the exporter that is started here"
    )
    given = parser.parse_args(arguments)
    if given.subcommand == "check":
        return check(os.environ)
    if given.subcommand == "keys":
        return keys(given.directory, given.names)
    if given.subcommand == "replay":
        return replay(given.paths, os.environ)
    if given.subcommand == "token":
        return token(os.environ)
    if given.subcommand is None:
        parser.print_help()
        return 0
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        run.error("which command? For example: episight run -- python train.py")
    return run_command(command, given.keep, os.environ)


if __name__ == "__main__":
    sys.exit(main())
