from pathlib import Path

import pytest

from poolkeeper_server.cli import serve


def test_a_wrong_option_ends_with_status_2_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert serve(data=tmp_path, listen="0.0.0.0:7443", tls="off") == 2
    written = capsys.readouterr()
    assert written.out == ""
    what, hint = written.err.splitlines()
    assert what.startswith("poolkeeper: tls is off, and listen is 0.0.0.0:7443")
    assert hint.startswith("  hint: ")


def test_a_missing_settings_file_ends_with_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert serve(config=tmp_path / "absent.toml") == 2
    assert "absent.toml" in capsys.readouterr().err
