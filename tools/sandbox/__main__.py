"""Starts the sandbox alone: `python -m tools.sandbox --help`."""

from tools.sandbox import main

main()
