"""Tests of the bridge, and the sandbox AiFi that they run against."""
