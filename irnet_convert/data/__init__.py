"""Hugging Face data sets → loaders that depend on the recipe alone, not on the number of processes."""

from irnet_convert.data.loaders import Loaders, make_eval_loader, make_loaders

__all__ = ["Loaders", "make_eval_loader", "make_loaders"]
