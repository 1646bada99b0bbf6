"""Libraries are silenced within the block, errors are not, and everything is as before after it."""

import logging
import warnings

import pytest

from kdc.quiet import quiet


def test_talk_is_silenced_and_errors_are_not(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            print("progress")
            logging.getLogger("library").warning("beware")
            logging.getLogger("library").error("broken")
            warnings.warn("deprecated", stacklevel=1)
    assert not caught
    assert capsys.readouterr().out == ""
    assert [record.message for record in caplog.records] == ["broken"]


def test_everything_talks_again_after_an_error(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        with quiet():
            raise KeyError("name")

    with pytest.raises(KeyError):
        fails()
    print("said")
    logging.getLogger("library").warning("beware")
    assert capsys.readouterr().out == "said\n"
    assert [record.message for record in caplog.records] == ["beware"]
