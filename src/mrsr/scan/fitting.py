"""Whether a scan is like those that a network was trained on; what is not is said in one warning.

A checkpoint's provenance has `trained_on` (`slices.known` makes it): contrasts, organ, voxel sizes,
intensity range; its settings have the degradation.
"""

from __future__ import annotations

from collections.abc import Iterable

from mrsr.console import say
from mrsr.raw import contrasts
from mrsr.raw.volume import Volume
from mrsr.scan.choosing import Chosen
from mrsr.scan.input import Given

NEAR = 1.25  # voxels of so many times another size are as good as it
ACQUIRED = 0.8  # of the image's lines: fewer, and the scanner has interpolated


def contrast_of(given: Given, asked: str, chosen: Chosen) -> str:
    """The scan's contrast: as asked, else guessed and said; empty if nothing tells it."""
    if asked:
        return contrasts.canonical(asked)
    known = chosen.trained_on.get("contrasts")
    if not known:
        return ""  # nothing depends on it
    header = given.scan.image.header
    description = bytes(header["descrip"]).split(b"\0")[0].decode("ascii", "replace") \
        if "descrip" in header else ""  # fmt: skip
    found, why = contrasts.guess(given.name, given.tags, description)
    if found:
        say(f"{given.name}: contrast {found}, {why}; --contrast overrides")
    else:
        say(f"{given.name}: nothing tells its contrast; the network knows {', '.join(known)}; "
            "--contrast names it")  # fmt: skip
    return found


def warn(given: Given, volume: Volume, unit: float, contrast: str, chosen: Chosen) -> None:
    """One warning with both values of all that differs; nothing if nothing does.

    unit: the intensity that becomes 1.
    """
    found = list(_differences(given, volume, unit, contrast, chosen))
    if found:
        say(f"warning: {given.name} is unlike the scans that {chosen.label} was trained on: "
            + "; ".join(found))  # fmt: skip


def _differences(
    given: Given, volume: Volume, unit: float, contrast: str, chosen: Chosen
) -> Iterable[str]:
    known = chosen.trained_on
    if contrast and known.get("contrasts") and contrast not in known["contrasts"]:
        yield f"contrast {contrast}, it learned {', '.join(known['contrasts'])}"
    organ = str(given.tags.get("BodyPartExamined", "")).lower()
    if organ and (learned := known.get("organ")) and organ not in _also(learned):
        yield f"of the {organ}, it learned the {learned}"
    if plane := known.get("plane_mm"):
        low, high = (size * chosen.scale for size in plane)
        sizes = volume.voxel_size[1:]
        if min(sizes) < low / NEAR or max(sizes) > high * NEAR:
            yield (f"voxels of {sizes[0]:.3g} x {sizes[1]:.3g} mm in the plane, "
                   f"it learned {_range(low, high)} mm")  # fmt: skip
    if span := known.get("intensity"):
        low, high = span
        image = volume.image
        ours = float(image.min()) / unit, float(image.max()) / unit
        if ours[0] < low - 0.1 or ours[1] > 2 * high:
            yield (f"intensities of {ours[0]:.3g} to {ours[1]:.3g} times its unit, "
                   f"it learned {low:.3g} to {high:.3g}")  # fmt: skip
    acquired, shown = (given.tags.get(f"{of}MatrixPE") for of in ("Acquisition", "Recon"))
    numbers = isinstance(acquired, int | float) and isinstance(shown, int | float)
    if known and numbers and acquired < ACQUIRED * shown:  # type: ignore[operator]
        undone = chosen.settings.get("degradation", "another degradation")
        yield (
            f"interpolated by the scanner from {acquired} to {shown} lines, it learned to undo "
            f"{undone}"
        )


def _also(organ: str) -> tuple[str, ...]:
    """Names of DICOM for an organ."""
    return (organ, "head", "skull") if organ == "brain" else (organ,)


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
