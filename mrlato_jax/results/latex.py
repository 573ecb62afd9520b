"""Tables as LaTeX, for a paper: the same cells as in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mrlato_jax.results.comparison import Table

_ESCAPED = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
_NEEDS = "% The preamble needs \\usepackage{booktabs}."


def latex_tables(tables: Sequence[Table]) -> str:
    """One `table` environment for each table, in the style of booktabs: text to the left, numbers to the right.

    A wide table may need a smaller font or a landscape page.

    Args:
        tables: caption, header and cells of each.
    """
    return "\n\n".join([_NEEDS, *(_table(*table) for table in tables)]) + "\n"


def _table(title: str, header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(title)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"    \toprule",
        _row(header),
        r"    \midrule",
        *map(_row, cells),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return rf"    {' & '.join(map(escaped, cells))} \\"


def escaped(text: str) -> str:
    """A text as LaTeX sets it: signs that mean something there are escaped, a minus before a digit is a minus sign."""
    signs = re.sub(r"[&%$#_{}\\~^±]", lambda sign: _ESCAPED[sign[0]], text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", signs)
