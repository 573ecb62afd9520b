"""Writes docs/settings.md, the table of every setting, from the fields of mrlato_jax/config.py.

python launch/settings_page.py
"""

from __future__ import annotations

from typing import Any

from _cli import LAUNCH, run
from _train_flags import RECORDS, choices_of

from mrlato_jax.config import (
    UNSAID,
    ExecutionConfig,
    LearningConfig,
    NetworkConfig,
    Setting,
    TrainConfig,
    settings_of,
)
from mrlato_jax.files import write_atomically
from mrlato_jax.methods import METHODS, LearnedMethod

PAGE = LAUNCH.parent / "docs" / "settings.md"
TITLES = {
    TrainConfig: "The run",
    NetworkConfig: "The network",
    LearningConfig: "Learning",
    ExecutionConfig: "Distribution over devices",
}
HEAD = """# Settings

`python launch/settings_page.py` writes this page from `mrlato_jax/config.py`. Make changes there.

Each setting is a flag of `launch/meta_train.py`. If a setting has several values, the last of these sources wins: the
default below, which is the paper's if the paper has one; the method; flag files and the command line, from left to
right. `launch/exp1.flags` to `exp3.flags` only set the data, the method and the size of the meta-batch.

A value that differs from the method's is part of the method's name in tables, as in `mrlato+pooled+outer_lr=0.0015`.
The last column marks the exceptions: settings of the budget, of the data, or of the distribution over devices.
Sections, tables and equations are the paper's; "ours" marks values that the paper does not give.
"""
COLUMNS = ("setting", "default", "accepted", "effect", "source of the default", "in the name")


def page() -> str:
    """Returns the text of the page."""
    parts = [HEAD]
    for record in RECORDS:
        rows = [_row(record, name, known) for name, known in settings_of(record).items()]
        parts.append(f"## {TITLES[record]}\n\n{_table(COLUMNS, rows)}")
    rows = [(f"`{name}`", _brought(method)) for name, method in METHODS.items()]
    parts.append(f"## Settings of each method\n\n{_table(('method', 'settings that differ from the default'), rows)}")
    return "\n".join(parts)


def main(_: list[str]) -> int:
    write_atomically(PAGE, page().encode())
    print(PAGE)
    return 0


def _row(record: Any, name: str, known: Setting) -> tuple[str, ...]:
    accepted = ", ".join(f"`{choice}`" for choice in choices_of(name, known)) or known.accepted
    said = "no" if known.label == UNSAID else known.label
    return f"`--{name}`", f"`{getattr(record, name)}`", accepted, known.help, known.source, said


def _brought(method: LearnedMethod) -> str:
    config = method.config()
    plain = TrainConfig(warm_start=config.warm_start)
    pairs: list[tuple[str, Any, Any]] = [
        ("", config, plain),
        ("", config.network, plain.network),
        ("", config.learning, plain.learning),
    ]
    if config.warm_start is not None:
        pairs.append(("warm start: ", config.warm_start, LearningConfig()))
    texts = []
    for title, own, usual in pairs:
        changed = [
            f"`{name}={getattr(own, name)}`"
            for name in settings_of(own)
            if name != "method" and getattr(own, name) != getattr(usual, name)
        ]
        if changed:
            texts.append(title + ", ".join(changed))
    return "; ".join(texts) or "none"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    run(main)
