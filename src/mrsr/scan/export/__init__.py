"""Take a network away: as ONNX, as a MONAI bundle, as a registered model of MLflow."""
