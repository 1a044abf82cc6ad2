"""Word of each character of a cleaned text, numbered by the white-space words of the text before cleaning."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher

from cmapkd.towers.tokens.interface import NONE


def words_of_characters(text: str, cleaned: str, clean: Callable[[str], str]) -> list[int]:
    """Index into text.split() of the word of each character of `cleaned`; NONE for white space.

    Where cleaning the words one by one gives the cleaned text, the answer is exact; else characters are aligned.
    """
    if cleaned == text:
        return _of_words(text)
    words = [clean(word) for word in text.split()]
    if " ".join(word for word in words if word) == cleaned:
        owners: list[int] = []
        for index, word in enumerate(words):
            if word:
                owners += [NONE if letter.isspace() else index for letter in word] + [NONE]
        return owners[:-1]
    return _aligned(text, cleaned)


def _of_words(text: str) -> list[int]:
    """The word of each character of a text that no cleaning changed."""
    owners, index, inside = [], -1, False
    for letter in text:
        space = letter.isspace()
        index += not space and not inside
        inside = not space
        owners.append(NONE if space else index)
    return owners


def _aligned(text: str, cleaned: str) -> list[int]:
    """Characters that both texts have in the same order keep their word; others take that of the character before."""
    source = _of_words(text)
    owners = [NONE] * len(cleaned)
    blocks = SequenceMatcher(None, text.lower(), cleaned.lower(), autojunk=False).get_matching_blocks()
    for a, b, size in blocks if len(text.lower()) == len(text) and len(cleaned.lower()) == len(cleaned) else ():
        owners[b : b + size] = source[a : a + size]
    known = 0
    for place, letter in enumerate(cleaned):
        known = known if owners[place] == NONE else owners[place]
        owners[place] = NONE if letter.isspace() else known
    return owners
