"""Cleaning: a model's cleaning of texts, with the white-space word of the text as it was given that each part comes from.

Models clean texts in different ways (lower case, repaired Unicode, no punctuation); words are numbered before that, so
that two models mean the same word by a number even where one of them drops a word of punctuation alone.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from functools import lru_cache

from cmapkd.towers.tokens.interface import NONE

WORDS = 200_000  # different words that are kept; a web-scale set has millions, most of which come once
Clean = Callable[[str], str]


def as_it_is(text: str) -> str:
    """No cleaning: the tokenizer does all that is done to a text."""
    return text


class Cleaning:
    """`clean` of whole texts and word by word; it must act on each word alone in printable ASCII without `&`."""

    def __init__(self, clean: Clean) -> None:
        self.clean = clean
        self._word: Clean = lru_cache(WORDS)(clean)

    def words(self, text: str) -> list[str] | None:
        """The cleaned form of each word of text.split(), empty where it is dropped; None where words cannot be cleaned alone.

        Joined by spaces they are the cleaned text, which is checked in all but plain texts (ftfy takes most of the time).
        """
        words = [self._word(word) for word in text.split()]
        plain = text.isascii() and text.isprintable() and "&" not in text
        return words if plain or self.clean(text) == joined(words) else None

    def with_owners(self, text: str) -> tuple[str, list[int]]:
        """(cleaned text, index into text.split() of the word of each of its characters, NONE for white space)."""
        if self.clean is as_it_is:
            return text, owners_of(text)
        words = self.words(text)
        if words is None:
            cleaned = self.clean(text)
            return cleaned, aligned(text, cleaned)
        owners: list[int] = []
        for index, word in enumerate(words):
            if word:
                owners += (
                    [NONE if letter.isspace() else index for letter in word] if " " in word else [index] * len(word)
                )
                owners.append(NONE)
        return joined(words), owners[:-1]


def joined(words: list[str]) -> str:
    """The words that were not dropped, with a space between."""
    return " ".join(filter(None, words))


def owners_of(text: str) -> list[int]:
    """The word of each character of a text."""
    owners, place = [NONE] * len(text), 0
    for index, word in enumerate(text.split()):
        place = text.index(word, place)
        owners[place : place + len(word)] = [index] * len(word)
        place += len(word)
    return owners


def aligned(text: str, cleaned: str) -> list[int]:
    """The word of each character of `cleaned`, which shares most of its characters with `text` in the same order.

    A shared character keeps its word; another one takes that of the character before it.
    """
    owners, source = [NONE] * len(cleaned), owners_of(text)
    old, new = ("".join(letter.lower()[0] for letter in side) for side in (text, cleaned))
    for a, b, size in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        owners[b : b + size] = source[a : a + size]
    last = 0
    for place, letter in enumerate(cleaned):
        last = last if owners[place] == NONE else owners[place]
        owners[place] = NONE if letter.isspace() else last
    return owners
