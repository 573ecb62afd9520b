"""Map and reduce: corrects the misspelt words of a text and counts each word.

The text is generated from a seed at the UE, in pieces. Each piece is counted by its own task. The words are split into
a few shares, and one task per share adds up the counts. The last task finds the most frequent words.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from typing import Any

import numpy as np

from mrlato_jax.edge.application import Application

PIECES = 6
SHARES = 3
WORDS = 5000  # words of a piece
VOCABULARY = 2500
MISSPELT = 0.08  # share of misspelt words
TOP = 20
LETTERS = "abcdefghijklmnopqrstuvwxyz"

app = Application("map_reduce")


def _vocabulary() -> tuple[str, ...]:
    """Returns words of two to four syllables, the most frequent first."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    random = np.random.default_rng(1)
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        count = 2 + int(3 * random.random())
        words["".join(syllables[int(place * len(syllables))] for place in random.random(count))] = None
    return tuple(words)


_WORDS = _vocabulary()
_KNOWN = {word: place for place, word in enumerate(_WORDS)}
_SHARES = np.cumsum(1.0 / np.arange(2, VOCABULARY + 2))  # Zipf's law
_SHARES /= _SHARES[-1]


@app.task(pin="ue")
def read(seed: int, piece: int) -> str:
    """Returns a piece of the text."""
    random = np.random.default_rng([seed, piece])
    words = [_WORDS[place] for place in np.searchsorted(_SHARES, random.random(WORDS)).tolist()]
    for number in np.flatnonzero(random.random(WORDS) < MISSPELT).tolist():
        word, place = words[number], int(random.random() * len(words[number]))
        words[number] = word[:place] + LETTERS[int(26 * random.random())] + word[place + 1 :]
    for number in np.flatnonzero(random.random(WORDS) < 0.08).tolist():
        words[number] = words[number].capitalize() + "."
    return " ".join(words)


@app.task
def count(text: str) -> dict[str, int]:
    """Counts the words of a piece; an unknown word counts as the most frequent similar word."""
    counts: Counter[str] = Counter()
    for spelling, times in Counter(word.strip(".,").lower() for word in text.split()).items():
        counts[spelling if spelling in _KNOWN else mended(spelling)] += times
    return dict(sorted(counts.items()))


def mended(word: str) -> str:
    """Returns the most frequent known word that differs by one mistake; the word itself if there is none."""
    cuts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    likely = [left + right[1:] for left, right in cuts if right]
    likely += [left + right[1] + right[0] + right[2:] for left, right in cuts if len(right) > 1]
    likely += [left + letter + right[1:] for left, right in cuts if right for letter in LETTERS]
    likely += [left + letter + right for left, right in cuts for letter in LETTERS]
    return min((one for one in likely if one in _KNOWN), key=_KNOWN.__getitem__, default=word)


@app.task
def add(share: int, counts: list[dict[str, int]]) -> dict[str, list[int]]:
    """Adds up the counts of one share of the words: occurrences in the text, and number of pieces."""
    frequencies: dict[str, list[int]] = {}
    for one in counts:
        for word, times in one.items():
            if zlib.crc32(word.encode()) % SHARES == share:
                entry = frequencies.setdefault(word, [0, 0])
                entry[0] += times
                entry[1] += 1
    return frequencies


@app.task
def merge(shares: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Returns the most frequent words, and the numbers of words, of different words, and of those in each piece."""
    entries = [(word, times, pieces) for share in shares for word, (times, pieces) in share.items()]
    entries.sort(key=lambda entry: (-entry[1], entry[0]))
    return {
        "words": sum(times for _, times, _ in entries),
        "different": len(entries),
        "everywhere": sum(pieces == PIECES for _, _, pieces in entries),
        "top": [[word, times] for word, times, _ in entries[:TOP]],
    }


@app.flow
def frequent_words(seed: int) -> Any:
    """Finds the most frequent words of a text."""
    counts = [count(read(seed, piece)) for piece in range(PIECES)]
    return merge([add(share, counts) for share in range(SHARES)])


@app.example
def example() -> dict[str, Any]:
    """Returns the seed of a text."""
    return {"seed": 3}
