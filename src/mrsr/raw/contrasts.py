"""Which contrast a scan has, guessed from its name, the tags beside it, or its header."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from mrsr.raw.scan_formats import stem

# contrast -> words of names; the first that fits: T2_FLAIR is FLAIR, t2_star is no T2
_WORDS = {
    "CT": "ct",
    "DWI": "dwi|adc|dti|sbref|trace",
    "BOLD": "bold|epi|fmri",
    "FLAIR": "flair|t2flair",
    "T2*": "t2star|t2starw|t2s|swi|swan",
    "PDFS": "pdfs|fspd",
    "PD": "pd|pdw|density|proton",
    "T1": "t1|t1w|t1c|t1ce|t1gd|mprage|mp2rage|inplanet1|spgr|bravo|uni|unit1",
    "T2": "t2|t2w|inplanet2",
}
_KNOWN = {word: contrast for contrast, words in _WORDS.items() for word in words.split("|")}
KNOWN = tuple(_WORDS)
_SAID = ("SeriesDescription", "ProtocolName")  # of BIDS and dcm2niix


def by_words(text: str) -> str:
    """The contrast that a name's words tell; empty if none does or two do."""
    words = [word for word in re.split(r"[^a-z0-9*]+", text.lower()) if word]
    pairs = [first + second for first, second in itertools.pairwise(words)]  # t2_star
    found = {_KNOWN[word] for word in (*words, *pairs) if word in _KNOWN}
    first = next((contrast for contrast in ("FLAIR", "T2*") if contrast in found), "")
    if first:
        return first
    return found.pop() if len(found) == 1 else ""


def named(name: str) -> str:
    """The contrast that a file's name tells: of BIDS its suffix, else its words."""
    words = stem(name)
    suffix = words.rpartition("_")[2] if words.startswith("sub-") else ""
    return by_words(suffix) or by_words(words)


def canonical(word: str) -> str:
    """A contrast as networks have it, for any of its names: T1w, t1 and T1W are T1."""
    return _KNOWN.get(re.sub(r"[^a-z0-9*]", "", word.lower()), word.upper())


def guess(name: str, tags: Mapping[str, Any], description: str = "") -> tuple[str, str]:
    """The contrast and what tells it; both empty if nothing does.

    tags: of a JSON by BIDS or dcm2niix, with times in seconds. description: the NIfTI header's
    `descrip`, where SPM and dcm2niix leave times in milliseconds.
    """
    if found := named(name):
        return found, "by its name"
    if str(tags.get("Modality", "")).upper() == "CT":
        return "CT", "by the tag Modality"
    for tag in _SAID:
        if found := by_words(str(tags.get(tag, ""))):
            return found, f"by the tag {tag}"
    times = [_number(tags.get(f"{of}Time")) for of in ("Repetition", "Echo", "Inversion")]
    where = "by the times of its tags"
    if times[:2] == [None, None]:
        told = dict(re.findall(r"\b(TR|TE|TI)=([0-9.]+)", description))
        times = [_number(told.get(key), 1000) for key in ("TR", "TE", "TI")]
        where = "by the times in its header"
    found = _by_times(*times)
    return (found, where) if found else ("", "")


def _by_times(repetition: float | None, echo: float | None, inversion: float | None) -> str:
    """Of spin echoes, and gradient echoes with inversion; seconds. Empty where it is not clear."""
    if repetition is None or echo is None:
        return ""
    if inversion is not None and inversion > 1.5:
        return "FLAIR" if echo > 0.06 else ""
    if echo < 0.03 and (repetition < 0.9 or (inversion is not None and 0.4 < inversion < 1.3)):
        return "T1"
    if repetition > 1.8 and inversion is None:
        return "T2" if echo > 0.06 else "PD" if echo < 0.035 else ""
    return ""


def _number(value: Any, divide: float = 1) -> float | None:
    try:
        return float(value) / divide
    except (TypeError, ValueError):
        return None
