from __future__ import annotations

from tools.gen_docs import PAGE, page


def test_the_page_of_commands_is_fresh() -> None:
    """It is generated: ``python tools/gen_docs.py`` makes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_option_is_on_the_page() -> None:
    assert page().count("| `--namespace`, `-n` VALUE |") == 4


def test_an_option_within_code_is_not_marked_again() -> None:
    """Marks within marks end the code in the middle of a command."""
    assert "`moongate run --keep-envoys`" in page()
