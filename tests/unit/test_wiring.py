"""How the app is put together from the environment."""

import pytest

from app import create_app
from config import VARIABLES
from tests.support import ENOUGH, read


@pytest.mark.usefixtures("same_log")
def test_create_app_reads_the_environment(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, text in {**ENOUGH, "DATABASE_PATH": str(tmp_path / "mine.db"), "AIFI_CURRENCY": "SEK"}.items():
        monkeypatch.setenv(name, text)
    config = create_app().extensions["bridge"].config
    assert config == read(DATABASE_PATH=str(tmp_path / "mine.db"), AIFI_CURRENCY="SEK")


@pytest.mark.usefixtures("same_log")
def test_create_app_ends_a_start_without_a_key_and_says_what_to_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as end:
        create_app()
    assert "AIDE_API_KEY" in str(end.value)
    assert "AIFI_ACCESS_TOKEN" in str(end.value)
