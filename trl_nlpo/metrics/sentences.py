"""Sentences of an English text by rules, without data to download and fast enough for a reward.

`pysbd`, by which `summac` finds sentences in many languages, takes some fifty times as long.
"""

from __future__ import annotations

import re


def _words_in(lines: str) -> frozenset[str]:
    return frozenset(lines.split())


# A mark, quotes and brackets that close behind it, and white space; or a full-width mark, which needs no white space.
_MARK = re.compile(r"""(?<![.!?…])([.!?…]+)(["'”’»)\]}>]*) |[。！？｡][”’」』）]* ?""")  # noqa: RUF001
_OPENING = "\"'`“‘«([{<"  # noqa: RUF001

# A name or a number follows, whatever it begins with.
_NEVER_LAST = _words_in("""
    mr mrs ms messrs mme mlle dr prof rev hon fr gen sen rep gov lt col capt cmdr cpl sgt pvt maj adm pres supt
    det insp mt ft vs cf viz approx e.g i.e
""")
# Short for something only before a number: "No. 5" against "He said no."
_BEFORE_NUMBERS = _words_in("no nos fig figs p pp vol vols ch sec art eq")
# May end a sentence: then a word follows that sentences begin with.
_MAYBE_LAST = _words_in("""
    inc ltd co corp bros plc llc jr sr esq etc al dept dist est assn ave blvd rd st sq univ ph.d jan feb mar
    apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun ala ariz ark calif colo
    conn del fla ga ill ind kan ky la mass md mich minn miss mo mont neb nev okla ore pa tenn tex va vt wash
    wis wyo
""")
# These are words too, and are short for something only with a capital before a number or a capital.
_WORDS_TOO = _words_in("""
    mar jun art co det est fig fr hon ill ind la mass mo miss ore pa pres rep sat sec sun wash wed
""")
_LETTERS_WITH_DOTS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_BEGINS_SENTENCES = _words_in("""
    The A An This That These Those There Here It He She They We You I Its His Her Their Our My Your And But Or
    So Yet If When While Where Why What Who Which How As After Before Since Because Although Though However
    Meanwhile In On At By For From With Without To Then Now Not No Yes Some Many Most All Both Each Every
    Another Other One Two Is Are Was Were Do Does Did Has Have Had Will Would Can Could Should May Might Let
""")


def sentences(text: str) -> list[str]:
    """A text's sentences, white space within them being one space.

    A sentence ends after `.`, `!`, `?` or an ellipsis with the quotes and brackets that close behind it, at white
    space of any kind; a line break without a mark before it ends none. It does not end:

    - at a full stop after a title ("Mr."), "e.g.", "vs." and the like; after "No.", "Fig.", "p." before a number;
    - at a full stop after a capital ("J. Smith"), letters with full stops ("U.S.", "a.m."), a company's, street's,
      month's or state's abbreviation, "etc." or "Jr.", unless a word follows that sentences begin with ("The");
    - at an ellipsis, or at `!` or `?` with a closing quote, before a small letter.

    Full-width marks end one with or without white space. English abbreviations only.

    Example:
        >>> sentences("Mr. Smith of the U.S. ran. The cat slept!")
        ['Mr. Smith of the U.S. ran.', 'The cat slept!']
    """
    text = " ".join(text.split())
    found, start = [], 0
    for match in _MARK.finditer(text):
        if match.end() < len(text) and _is_end(text, start, match):
            found.append(text[start : match.end()].rstrip())
            start = match.end()
    return [*found, text[start:]] if text else []


def _is_end(text: str, start: int, match: re.Match[str]) -> bool:
    mark, closing = match.groups()
    if mark is None:
        return True
    following = text[match.end() : match.end() + 30].split(" ", 1)[0].lstrip(_OPENING)
    if mark == ".":
        word = text[max(start, text.rfind(" ", start, match.start()) + 1) : match.start()]
        return not _is_abbreviation(word.lstrip(_OPENING), following)
    is_within = following[:1].islower()
    if mark.strip("!?") == "":
        return not (is_within and closing.strip(")]}>"))
    return not is_within


def _is_abbreviation(word: str, following: str) -> bool:
    """Whether a full stop after a word belongs to the word, as in "Mr. Smith"."""
    small, next_letter = word.lower(), following[:1]
    if small in _NEVER_LAST:
        return small not in _WORDS_TOO or (word[:1].isupper() and next_letter.isupper())
    if small in _BEFORE_NUMBERS:
        return next_letter.isdigit()
    is_short = (
        (len(word) == 1 and word.isupper())
        or (small == "v" and next_letter.isupper())
        or (small in _MAYBE_LAST and (small not in _WORDS_TOO or word[:1].isupper()))
        or _LETTERS_WITH_DOTS.fullmatch(word) is not None
    )
    return is_short and re.split(r"\W", following, maxsplit=1)[0] not in _BEGINS_SENTENCES
