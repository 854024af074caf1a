"""The bench: how fresh, cheap and fast the bridge is, each figure beside its limit on the same machine.

`python -m tools.bench` takes less than 10 minutes; with `--quick`, on smaller mirrors, less than 90 seconds.
"""
