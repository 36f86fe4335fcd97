"""What is remembered of clients' texts has bounded length."""

from gateway.memory import LONGEST, remembered


def test_long_texts_are_not_remembered() -> None:
    asked: list[int] = []

    @remembered(8)
    def size(text: str) -> int:
        asked.append(len(text))
        return len(text)

    for length in (3, 3, LONGEST, LONGEST, LONGEST + 1, LONGEST + 1):
        assert size("x" * length) == length
    assert asked == [3, LONGEST, LONGEST + 1, LONGEST + 1]
