"""Tests of the bridge: units, the whole system, and random histories."""
