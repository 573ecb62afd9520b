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
    ExecutionConfig: "Layout on devices",
}
HEAD = """# Settings

`python launch/settings_page.py` makes this page from `mrlato_jax/config.py`. To change the page, change that file.

Each setting is a flag of `launch/meta_train.py`. A setting may get its value from three places, and the last one wins:

1. the default below, which is the paper's value if the paper gives one;
2. the method (`--method`), with the values in the last table;
3. flag files and the command line, from left to right.

`launch/exp1.flags` to `exp3.flags` set only the data, the method and the size of the meta-batch.

If a run replaces a value that the method brings, tables show the new value in the method's name, as in
`mrlato+pooled+outer_lr=0.0015`. The last column says how: as `name=value`, as the `value` alone, or not at all (`no`).
The name leaves out settings that say how much is spent, on which data, or how devices share the work.

The column "source of the default" names the paper's section, table or equation; "ours" marks values that the paper
leaves open. The [glossary](glossary.md) explains words such as quick rule, warm start and meta-batch.
"""
COLUMNS = ("setting", "default", "accepted", "what it does", "source of the default", "in the name")


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for record in RECORDS:
        rows = [_row(record, name, known) for name, known in settings_of(record).items()]
        parts.append(f"## {TITLES[record]}\n\n{_table(COLUMNS, rows)}")
    rows = [(f"`{name}`", _brought(method)) for name, method in METHODS.items()]
    parts.append(f"## What a method brings\n\n{_table(('method', 'settings that are not the default'), rows)}")
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
