"""openms: open T1W, T2W and FLAIR head scans of six people with multiple sclerosis.

The scans are those of Lesjak, Pernus, Likar and Spiclin, "Validation of White-Matter Lesion Change
Detection Methods on a Novel Publicly Available MRI Image Database", Neuroinformatics 2016 (CC BY;
cite it if you use them). They come from the public repository muschellij2/open_ms_data, folder
longitudinal/raw, at one commit: patients 01, 03, 04 and 12, up to two visits each, and one T1W scan
of patients 19 and 20. Every file is pinned by its SHA-256.

All are axial stacks (third stored axis: slices of 3 to 4 mm, 0.5 to 0.9 mm in plane) and are read
without cropping. The contrasts of one visit share the scanner's coordinates, so they share a
`pair`; their grids differ. The contrast `any` is all three, for a network that learns from each.

`source`: empty for $MRSR_MIRROR or, without one, the repository's raw URLs; otherwise a folder,
file:// or http(s):// base which holds `patient01/study1_T1W.nii.gz` and so on (folders may also be
a checkout of the repository, or a folder with that checkout in it).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.raw import download
from mrsr.raw.nifti import read_nifti
from mrsr.raw.volume import Volume, VolumeRef, fetched

ATTRIBUTION = (  # for the cards of networks that are trained on it
    "open_ms_data, github.com/muschellij2/open_ms_data, CC BY. Lesjak, Pernuš, Likar, Špiclin, "
    "Validation of White-Matter Lesion Change Detection Methods on a Novel Publicly Available MRI "
    "Image Database, Neuroinformatics 2016"
)
COMMIT = "65704901f60650824565aa5a4818611aa89716f4"
PUBLISHER = f"https://raw.githubusercontent.com/muschellij2/open_ms_data/{COMMIT}/longitudinal/raw"
SETTINGS = {"source": ""}  # a folder, file:// or http(s):// base; empty: mirror or publisher
CONTRASTS = {"T1": "T1W", "T2": "T2W", "FLAIR": "FLAIR"}
ANY = "any"  # all of them
_PINNED = {  # scan below longitudinal/raw -> SHA-256 of its .nii.gz
    "patient01/study1_FLAIR": "3a2ab438704776ad75b67cd8609740a14782cc590b26fc695dff4216ad67d231",
    "patient01/study1_T1W": "e5c495fa0bc6f61f7eb23cd985177f1338748a84e1be295e0639a9b97975ad4b",
    "patient01/study1_T2W": "9ca59a8473619fa20f9bf80f4d7a470f53e4d0ae64ba20acdc49297ce89ad164",
    "patient01/study2_FLAIR": "d3bb8754526f291e787f522520af7011d5bcfadd121f7d1e8cad16e4daf70f27",
    "patient01/study2_T1W": "3481e8e65ae7e920a24a04054e1019e5662aa7f09f485b8a5d9a01a72cf125cb",
    "patient01/study2_T2W": "f271a30ae512c69acb1f028b0681222e95032d44eb95c919b123ac2ad1b1f6a8",
    "patient03/study1_FLAIR": "bed2dc7a40f812ef89434d6aaf0cf83116a0eef3c903422e3732a74b3e1bfbd8",
    "patient03/study1_T2W": "dfeb4d8fcf0a2fb4bb9794ee143cf9696ae9bf881f8b713658912e28affdc159",
    "patient03/study2_FLAIR": "e0ec8ec77763a5fb7177325bb6c6372cb6e744242b9700bc9fc0ba00a27aeff0",
    "patient03/study2_T1W": "a514a804939724ceb1e232b8ef179d4c2f39d9b7b481deed1b7f6368b3d87029",
    "patient03/study2_T2W": "c037a753bf4bef5cfe9ddedc10f855b58ceb06a9888550cc5cb18cede8f820d5",
    "patient04/study1_FLAIR": "78a3a0136b5c0e0ecda98bdc105d49ef08b17ec607400a72989313b8e501b53d",
    "patient04/study1_T1W": "d14d6dd3ecebe0b362afcbe88291360c0f9bad0847aace908acb11e87de1a597",
    "patient04/study1_T2W": "de5f799bccb145fddb9cef72f6676c95c4cf1178bcc16916ab8bd1381aa65532",
    "patient12/study1_FLAIR": "c0c030d766062305d4f6215d2fe7706f995f98bb8234de246dd506cdcbda2734",
    "patient12/study1_T1W": "3decf392b656b41af1ff107fe34aeba8e66fdf23eefc8656dc8804ff62f4e388",
    "patient12/study1_T2W": "da2b3cedef895be66657fa2fb54867d7c67ef9ce05ba2233a540bd0b4aa7a6c8",
    "patient12/study2_FLAIR": "38a68c69ed8a58db14055d0a39cb901dedb0d2cac9f1aa059136ada212b2f805",
    "patient12/study2_T1W": "9322cf08eb03624ff6aec781c74bdcf54a77d414e0695f5de9fd52aaa94f0fac",
    "patient12/study2_T2W": "7528946d765ccae631edbf2cafd375de99a5249b5afb0aa049842c456b857bd3",
    "patient19/study2_T1W": "e5a1e44bbf880f74640eda6c03abe6af096e6cf0409be3b5859c1429186afe9c",
    "patient20/study2_T1W": "547488ee9918e90cda99052671e5c59c14e149acddefd72f73ded41797d91a73",
}
SCANS = {f"{scan}.nii.gz": sha256 for scan, sha256 in _PINNED.items()}
# where the files may lie below a folder that serves as the source
_LAYOUTS = ("", "longitudinal/raw", "open_ms_data/longitudinal/raw")


def prepare(folder: Path, settings: Any) -> None:
    """Fetch or copy missing files and verify each.

    Raises:
        UserError: the source lacks a file, cannot be reached or serves a different file.
    """
    base = _base(settings)
    for name, sha256 in SCANS.items():
        url = download.join(base, *name.split("/"))
        download.fetch(url, Path(folder) / name, sha256=sha256, label=f"openms {name}")


def list_volumes(folder: Path, settings: Any, contrast: str) -> list[VolumeRef]:
    """The scans of one contrast (T1, T2, FLAIR, any); subject = patient, visit = study.

    Raises:
        UserError: no such contrast, or a file is missing.
    """
    del settings  # SCANS has the subjects
    if contrast not in (*CONTRASTS, ANY):
        known = ", ".join((*CONTRASTS, ANY))
        raise UserError(f"openms has no contrast '{contrast}'; it has {known}")
    names = {weighting: name for name, weighting in CONTRASTS.items()}
    volumes = []
    for name in sorted(SCANS):
        subject, _, file = name.partition("/")
        visit, _, weighting = file.removesuffix(".nii.gz").partition("_")
        if contrast not in (ANY, names[weighting]):
            continue
        both = all(f"{subject}/{visit}_{one}.nii.gz" in SCANS for one in ("T1W", "T2W"))
        volumes.append(
            VolumeRef(
                path=fetched(Path(folder) / name, "openms"),
                subject=subject,
                contrast=names[weighting],
                organ="brain",
                visit=visit,
                pair=f"{subject}_{visit}" if both else "",
            )
        )
    return volumes


def read_volume(ref: VolumeRef) -> Volume:
    """One scan, whole, slices along the third stored axis."""
    return read_nifti(ref.path, slice_axis=2, **ref.names)


def _base(settings: Any) -> str:
    """The URL or folder with patient01/ and the others."""
    source = settings.source or os.environ.get("MRSR_MIRROR", "")
    if not source:
        return PUBLISHER
    root = download.local_path(source)
    if root is None:
        return source
    first = next(iter(SCANS))
    for layout in _LAYOUTS:
        if (root / layout / first).is_file():
            return str(root / layout)
    raise UserError(
        f"no {first} in {root}, nor below its {' or '.join(_LAYOUTS[1:])}; "
        "check data.sources.openms.source or MRSR_MIRROR"
    )
