"""Gradients of single records. Its modules import torch: import them inside functions, where a model is at hand."""
