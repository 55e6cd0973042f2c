"""The paper: losses, features, adversarial terms, disentangling, segmentation, pretext tasks."""
