"""Captions to the lower-cased tokens that caption metrics compare, close to the Penn Treebank tokenizer, in Python alone.

The reference is Stanford's PTBTokenizer (CoreNLP 3.4.1, `-lowerCase`) followed by the removal of seventeen tokens of
punctuation, as in the COCO caption evaluation (Chen et al. 2015, arXiv:1504.00325). Kept of it: clitics stand alone
(`do n't`, `dog 's`), runs such as `!!` are tokens of their own and stay, and so do brackets, since only their upper-case
names are in the list of what is removed. Not kept: its grammars of web and mail addresses, telephone numbers, dates, markup and
emoticons, and its long list of abbreviations, of which the common ones are here.
"""

from __future__ import annotations

import re

REMOVED = frozenset(('"', "''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "`": "`", "–": "--", "—": "--", "…": "...", "\xad": ""})
JOINED = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me", "lemme": "lem me",
    "'tis": "'t is", "'twas": "'t was", "more'n": "more 'n", "y'all": "y' all",
}  # fmt: skip
ABBREVIATED = (
    "mr mrs ms dr st jr sr prof gen col sgt capt lt gov sen rep rev hon pres etc vs inc corp co ltd bros ave blvd rd mt ft "
    "ex dept assn univ jan feb mar apr jun jul aug sep sept oct nov dec no approx al ph.d"
)
WORD = r"[^\W_]"
TOKEN = re.compile(
    rf"""
    (?P<joined>(?:cannot|gonna|gotta|wanna|gimme|lemme|y'all)\b|'(?:tis|twas)\b|more'n\b)
    | (?P<clitic>n't\b|'(?:s|m|d|ll|re|ve)\b)
    | (?P<decade>'\d\ds?\b|'n'(?!\w)|'n\b|'em\b)
    | (?P<initials>(?:{WORD}\.)+{WORD}\.|[b-hj-z]\.(?=\s+\w))
    | (?P<short>(?:{"|".join(map(re.escape, ABBREVIATED.split()))})\.(?=\s*\S|$)(?!\.))
    | (?P<handle>[@\#][^\W\d_]\w*)
    | (?P<negated>{WORD}+(?=n't\b))
    | (?P<number>[-+]?\d+(?:[.,:/]\d+)*(?:{WORD}+(?:[-/]{WORD}+)*|(?:-{WORD}+)+)?|\.\d+)
    | (?P<word>{WORD}(?:\w|[-/.!](?={WORD})|'(?!(?:s|m|d|ll|re|ve|t)\b)(?={WORD}))*)
    | (?P<run>\.{{3,}}|-+|[!?]+|''|``|_+|<[^\s<>]+>)
    | (?P<mark>\S)
    """,
    re.VERBOSE,
)


def tokens(caption: str) -> list[str]:
    """`A man's dog, don't!` → [a, man, 's, dog, do, n't]. Empty text gives none."""
    text = caption.translate(QUOTES).lower()
    out: list[str] = []
    for match in TOKEN.finditer(text):
        token = match[0]
        if token in JOINED:
            out += JOINED[token].split()
        elif token.isascii() or max(token) <= "\uffff":  # the reference drops what Java writes as two characters
            out.append(BRACKETS.get(token, token))
    return [token for token in out if token not in REMOVED]
