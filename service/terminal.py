"""What commands print that is good to know; what somebody asked for is printed by click.echo, and may fail."""

from contextlib import suppress

import click


def say(line: str, *, err: bool = False) -> None:
    """Print what is good to know, if that is possible: it may go to a disk that is full, or to nobody."""
    with suppress(OSError):
        click.echo(line, err=err)
