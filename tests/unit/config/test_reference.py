"""docs/reference.md lists every setting with its default, and every command."""

import re
from pathlib import Path
from typing import Any

from gateway.cli import gateway as commands
from gateway.config.settings import Settings

PAGE = (Path(__file__).parents[3] / "docs/reference.md").read_text()
WORDS = {"": None, "none": None, "no": False, "yes": True, "one per core": None}


def rows() -> list[tuple[list[str], list[str]]]:
    """Return the names and the defaults of each row of the table of settings."""
    table = PAGE.partition("| setting | default | |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (`.+?) \| (.*?) ?\| ", table, re.MULTILINE)
    return [(re.findall(r"`(\w+)`", names), re.sub("`", "", defaults).split(", ")) for names, defaults in found]


def shown(value: Any) -> Any:
    """Return a default as the table has it."""
    if isinstance(value, tuple):
        texts = [member.get_secret_value() if hasattr(member, "get_secret_value") else str(member) for member in value]
        return ",".join(texts) or None
    if isinstance(value, float):
        return f"{value:g}"
    return value if value is None or isinstance(value, bool) else str(value)


def test_every_setting_is_listed_once() -> None:
    listed = [name for names, _ in rows() for name in names]
    assert sorted(listed) == sorted(name.upper() for name in Settings.model_fields)


def test_the_defaults_are_the_ones_in_force() -> None:
    for names, defaults in rows():
        told = [WORDS.get(text, text) for text in defaults]
        told = told if len(told) == len(names) else told * len(names)
        fields = [Settings.model_fields[name.lower()] for name in names]
        assert told == [None if field.default_factory else shown(field.default) for field in fields], names


def test_the_help_tells_every_default() -> None:
    told = {option.name: getattr(option, "help", "") for option in commands.commands["serve"].params}
    for name, field in Settings.model_fields.items():
        default = None if field.default_factory or name == "secret" else shown(field.default)
        assert told[name].partition("  [default: ")[2] == ("" if default is None else f"{default}]"), name


def test_every_command_is_listed() -> None:
    told = PAGE.partition("## Commands")[2]
    assert [name for name in commands.commands if f"`{name}`" not in told and f"`gateway {name}`" not in told] == []
