"""`python -m torchgraft`, and the `torchgraft` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from torchgraft.cli import cli

    cli(prog_name="torchgraft")


if __name__ == "__main__":
    main()
