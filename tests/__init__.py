"""Tests of the bridge: units, the whole system, and random histories."""

import pytest

# So that an assertion which fails in a helper shows its values as one in a test does.
pytest.register_assert_rewrite("tests.support", "tests.system.contract", "tests.system.support")
