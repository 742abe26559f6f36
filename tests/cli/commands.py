"""Commands called in this process."""

import json

from rotviz.cli import main


def call(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    status = main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def asked(capsys, *arguments):
    """The one JSON object that a command prints with --json."""
    status, out, _ = call(capsys, *arguments, "--json")
    assert status == 0 and out.count("\n") == 1
    return json.loads(out)
