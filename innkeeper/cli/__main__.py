"""`python -m innkeeper.cli`."""

from innkeeper.cli.main import main

main()
