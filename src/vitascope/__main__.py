"""`python -m vitascope` is the `vitascope` command."""

from .cli import main

main()
