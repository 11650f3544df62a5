"""`python -m torchgraft`, and the `torchgraft` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from torchgraft.cli import cli

        cli(prog_name="torchgraft")
    except KeyboardInterrupt:  # before a command runs, or after it: a command says it itself
        sys.exit(130)


if __name__ == "__main__":
    main()
