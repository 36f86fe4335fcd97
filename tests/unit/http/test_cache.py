"""What is kept of texts that others write is bounded."""

from gateway.http.cache import LONGEST, bounded_cache


def test_long_texts_are_not_kept() -> None:
    asked: list[int] = []

    @bounded_cache(8)
    def size(text: str) -> int:
        asked.append(len(text))
        return len(text)

    for length in (3, 3, LONGEST, LONGEST, LONGEST + 1, LONGEST + 1):
        assert size("x" * length) == length
    assert asked == [3, LONGEST, LONGEST + 1, LONGEST + 1]


def test_no_more_is_kept_than_the_count_and_the_newest_always_is() -> None:
    asked: list[str] = []

    @bounded_cache(3)
    def same(text: str) -> str:
        asked.append(text)
        return text

    for number in range(10):
        assert same(str(number)) == same(str(number)) == str(number)
    assert asked == [str(number) for number in range(10)]
    assert len(same.__self__) <= 3  # type: ignore[attr-defined]


def test_what_raises_is_not_kept() -> None:
    asked: list[str] = []

    @bounded_cache(8)
    def fail(text: str) -> str:
        asked.append(text)
        raise ValueError

    for _ in range(2):
        try:
            fail("x")
        except ValueError:
            continue
    assert asked == ["x", "x"]


def test_what_is_not_to_be_kept_is_worked_out_each_time() -> None:
    asked: list[str] = []

    @bounded_cache(8, keeps=lambda length: length > 1)
    def size(text: str) -> int:
        asked.append(text)
        return len(text)

    for text in ("a", "a", "bb", "bb"):
        assert size(text) == len(text)
    assert asked == ["a", "a", "bb"]
