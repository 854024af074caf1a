"""What the demo prints."""

import pytest

from tools import demo


@pytest.mark.parametrize("text", ["abc", "0", "70000", "80 80", "-1"])
def test_a_port_that_is_none_is_one_sentence(monkeypatch, capsys, text):
    monkeypatch.setenv("PORT", text)
    assert demo.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"PORT is {text!r}: set it to a whole number from 1 to 65535, or leave it out.\n"


def test_the_commands_can_be_pasted_as_a_whole():
    lines = demo.COMMANDS.splitlines()
    assert all(line.startswith(("BRIDGE=", "curl ")) for line in lines)
    assert all(line.count("'") % 2 == line.count('"') % 2 == 0 for line in lines)
    assert "'" not in demo.example_webhook(), "it stands in such quotes"
