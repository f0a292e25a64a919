"""`python -m expirytrack_dagster` is the command `expirytrack`."""

from expirytrack_dagster.cli import main

main()
