"""The model that MLflow loads and serves: slices of one scan in, finer slices out."""

from typing import Any

import mlflow
import numpy as np
from applying import Enhancer
from mlflow.pyfunc import PythonModel


class Served(PythonModel):
    """Input (slices, h, w) in any intensity unit, output (slices, scale * h, scale * w)."""

    def load_context(self, context: Any) -> None:
        settings = context.model_config
        self.enhancer = Enhancer(
            context.artifacts["network"], settings["scale"], settings["percentile"]
        )

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        return self.enhancer(model_input)


mlflow.models.set_model(Served())
