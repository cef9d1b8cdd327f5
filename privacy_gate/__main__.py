"""`python -m privacy_gate`."""

from privacy_gate.cli import main

main()
