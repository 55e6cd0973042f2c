"""Code that goes with a bundle or a registered model; runs without mrsr."""
