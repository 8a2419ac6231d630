"""``python -m mdcm.cli``."""

from mdcm.cli.app import main

main()
