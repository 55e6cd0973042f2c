"""Apply an ONNX network to the slices of a scan, as `mrsr enhance` does.

For research only: an enhanced scan is an estimate, not for diagnosis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime


class Enhancer:
    """Slices (n, h, w) in any intensity unit to (n, scale * h, scale * w) float32 in the same.

    file: the network. scale and percentile: what it was trained with.
    """

    def __init__(self, file: str, scale: int, percentile: float) -> None:
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.scale, self.percentile = int(scale), float(percentile)

    def __call__(self, slices: Any) -> np.ndarray:
        image = np.asarray(slices, np.float32)
        if image.ndim != 3 or min(image.shape[1:]) < 8:
            raise ValueError(
                f"expected (slices, height, width), at least 8 pixels a side, not {image.shape}"
            )
        if not np.isfinite(image).all():
            raise ValueError("the scan has NaN or infinite values; replace them first")
        # the intensity that becomes 1: of the whole scan, so that its slices stay comparable
        unit = np.float32(np.percentile(image, self.percentile))
        if not unit > 0:
            raise ValueError(
                f"the {self.percentile:g} % percentile is {unit:g}; it must be above 0"
            )
        fine = np.empty((len(image), *(self.scale * size for size in image.shape[1:])), np.float32)
        for number, one in enumerate(image / unit):
            (sr,) = self.session.run(None, {"lr": one[None, None]})
            fine[number] = sr[0, 0] * unit
        return fine
