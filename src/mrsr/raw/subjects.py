"""Who is on a scan, and which contrast it is, from the names of its file and folders.

BIDS names say both: `sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz` is a T1w scan of sub-01. For other
names, words that name no person (visits, contrasts, dates, ...: `_NO_PERSON`) are taken away from
each folder below the root, from the top, and then from the file; the first in which something is
left is the subject:

    patient1/T1.nii.gz -> patient1        T1/anna.nii.gz -> anna
    visit1/anna.nii.gz -> anna            IXI002-Guys-0828-T1.nii.gz -> IXI002-Guys-0828

A folder that all files share is asked last. All that is a guess, so `may_be_one` finds the names
that could still be one person's (anna_1 and anna_2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mrsr.errors import UserError
from mrsr.raw.nifti import stem

FILE, FOLDER = "file", "folder"  # of the setting `subject`; anything else is a pattern
MASKS = ("mask", "seg", "dseg", "probseg", "segmentation", "label", "labels")
_DATATYPES = ("func", "dwi", "fmap", "perf", "pet", "meg", "eeg", "ieeg", "mrs", "beh")
_NO_PERSON = re.compile(
    r"""(
        t1|t1w|t1c|t1ce|t1gd|t2|t2w|t2s|t2star|pd|pdw|pdfs|flair|stir|swi|dwi|adc|mprage|space|dixon
        |images?|imagests|imagestr|scans?|mr|mri|nii|nifti|niftis|raw|rawdata|data|dataset|anat
        |brains?|heads?|knees?|struct|structural|orig|original|anon|anonymi[sz]ed|defaced
        |axial|sagittal|coronal|ax|sag|cor|train|training|val|validation|test|testing
        |subjects|patients|controls|healthy|cohort|(group|site|cent(er|re)|hospital|scanner)[a-z]?\d*
        |(visits?|ses|sessions?|timepoints?|tp|baseline|bl|follow-?up|fu|months?|weeks?|days?|years?
          |run|rep|series|scan|study|acq|echo|exam)\d*
        |(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])
    )""",
    re.VERBOSE,
)
_COUNTED = re.compile(  # such a word takes a number behind it along: visit_2, run-1
    r"visit|ses|session|timepoint|tp|month|week|day|year|run|rep|series|scan|study|acq|echo|exam|mr"
)
# names of nothing but such words, which are numbered: scan_001
_NUMBERED = re.compile(r"(scan|image|mri?|brain|head|knee|nii|data|raw|anat|study|exam)[_\-. ]*\d+")
_DATE = re.compile(r"(19|20)\d\d[-_.]\d\d[-_.]\d\d")


class Bids(NamedTuple):
    """What a BIDS name says; `datatype` is the folder (anat, func, ...), empty without one."""

    subject: str
    suffix: str
    datatype: str
    place: str  # the folder that has the subject's folder


def bids(inside: str) -> Bids | None:
    """Read a path in the root, with `/`; None if neither folder nor file is a subject's.

    Raises:
        UserError: the folder and the file name different subjects.
    """
    *folders, file = inside.split("/")
    name = stem(file)
    at = [number for number, part in enumerate(folders) if re.fullmatch(r"sub-[^_]+", part)]
    own = re.match(r"sub-[^_]+", name)
    if not (at or own):
        return None
    subject = folders[at[-1]] if at else own[0] if own else ""
    if own and own[0] != subject:
        raise UserError(f"{inside}: the folder is {subject}'s, the file {own[0]}'s; rename one")
    datatype = folders[-1] if folders and folders[-1] in ("anat", *_DATATYPES) else ""
    return Bids(
        subject, name.rpartition("_")[2], datatype, "/".join(folders[: at[-1]] if at else ())
    )


def why_not(inside: str, contrast: str) -> str:
    """Why a file is not of a contrast; empty if it is.

    contrast: a word of the name (T1w, FLAIR; of a BIDS name its suffix), or "any": all but masks
    and, in BIDS, all but anatomical scans.
    """
    named, words = bids(inside), _words(inside)
    if contrast != "any":
        fits = [named.suffix.lower()] if named else words
        return "" if contrast.lower() in fits else f"not {contrast} by its name"
    if mask := next((word for word in _words(inside.rpartition("/")[2]) if word in MASKS), ""):
        return f"a {mask} by its name"
    if named and named.datatype in _DATATYPES:
        return f"in {named.datatype}; name its contrast to use it"
    return ""


def subjects(insides: Sequence[str], setting: str = "", contrast: str = "any") -> dict[str, str]:
    """The subject of each path in the root.

    setting: empty for BIDS or, without such names, the rules above; "file" or "folder" if each
    file, or each folder in the root, is another person's; otherwise a regular expression, searched
    in the path, whose first group is the subject.

    Raises:
        UserError: a pattern that is wrong or does not fit, a file outside of all folders, or one
            BIDS subject in two places.
    """
    if setting == FILE:
        return {inside: stem(inside) for inside in insides}
    if setting == FOLDER:
        for inside in insides:
            if "/" not in inside:
                raise UserError(f"{inside} is in no folder, and subject is 'folder'; move the file")
        return {inside: inside.partition("/")[0] for inside in insides}
    if setting:
        return {inside: _by_pattern(inside, setting) for inside in insides}
    shared = list(filter(None, os.path.commonpath(insides).split("/"))) if len(insides) > 1 else []
    named = {inside: bids(inside) for inside in insides}
    places: dict[str, tuple[str, str]] = {}
    found = {}
    for inside, told in named.items():
        if told is None:
            found[inside] = _guess(inside, shared, contrast)
            continue
        found[inside] = told.subject
        place, first = places.setdefault(told.subject, (told.place, inside))
        if place != told.place:
            raise UserError(
                f"{first} and {inside} are of a {told.subject} in two datasets, perhaps two people;"
                " set the source's path to one of them, or its subject to a pattern"
            )
    return found


def may_be_one(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of subjects' names that start alike, although not all do: anna_1 and anna_2 beside ben.

    The words that all names start with are left aside (case_001, case_002); then each must have a
    first word of its own.
    """
    words = {name: re.findall(r"[^\W\d_]+|\d+", name.lower()) for name in sorted(set(names))}
    while len(words) > 1 and all(words.values()):
        if len({word[0] for word in words.values()}) > 1:
            break
        words = {name: rest[1:] for name, rest in words.items()}
    first: dict[str, str] = {}
    for name, rest in words.items():
        if rest:
            start = str(int(rest[0])) if rest[0].isdecimal() else rest[0]
            if start in first:
                yield first[start], name
            first.setdefault(start, name)


def refuse_unclear(
    subject_of: Mapping[str, str], split_of: Mapping[str, str] | None, key: str
) -> None:
    """Refuse guessed subjects that may be one person, unless a list puts them into one split.

    subject_of: path -> subject, guessed only. split_of: path -> split, if a list has them.

    Raises:
        UserError: names two files, and what to set.
    """
    files: dict[str, str] = {}
    for inside, subject in subject_of.items():
        files.setdefault(subject, inside)
    for one, two in may_be_one(files):
        if split_of and split_of[files[one]] == split_of[files[two]]:
            continue
        in_folders = all(files[name].startswith(f"{name}/") for name in (one, two))
        what = FOLDER if in_folders else FILE
        raise UserError(
            f"{files[one]} and {files[two]} may be of one person or of two; say which: set "
            f"data.sources.{key}.subject to '{what}' if each {what} is another person's, or to a "
            f"pattern, or list the files with their subjects in a CSV (data.sources.{key}.split)"
        )


def _by_pattern(inside: str, pattern: str) -> str:
    try:
        match = re.search(pattern, inside)
    except re.error as error:
        raise UserError(f"subject: '{pattern}' is no regular expression ({error})") from None
    if match is None or not match.groups() or not match[1]:
        raise UserError(
            f"subject: the pattern '{pattern}' finds no subject in {inside}; it needs a group in "
            "parentheses that is in every path"
        )
    return match[1]


def _guess(inside: str, shared: Sequence[str], contrast: str) -> str:
    """The first of folders and file in which a person may be named; shared ones come last."""
    *folders, file = inside.split("/")
    name = stem(file)
    for part in (*folders[len(shared) :], name, *reversed(shared)):
        if person := _person(part, contrast):
            return person
    if _NUMBERED.search(name.lower()):
        return name
    raise UserError(
        f"neither the name nor a folder of {inside} says whose scan it is; list the files in a CSV "
        "with their subjects, or set subject to a pattern or to 'file'"
    )


def _person(name: str, contrast: str) -> str:
    """A name without the words that name no person, and what stands between them."""
    pieces = re.split(r"([_\-. ]+)", _DATE.sub("", name))
    kept, counted = [], False
    for word in pieces[::2]:
        low = word.lower()
        none = not word or low == contrast.lower() or bool(_NO_PERSON.fullmatch(low))
        none = none or (counted and low.isdecimal())
        counted = bool(_COUNTED.fullmatch(low))
        kept.append(not none)
    last = next((number for number in reversed(range(len(kept))) if kept[number]), -1)
    first = kept.index(True) if last >= 0 else 0
    text = ""
    for number in range(first, last + 1):
        if kept[number]:
            text += (pieces[2 * number - 1] if text else "") + pieces[2 * number]
    return text


def _words(inside: str) -> list[str]:
    parts = inside.split("/")
    return re.split(r"[_\-. /]+", "/".join([*parts[:-1], stem(parts[-1])]).lower())
