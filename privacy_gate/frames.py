"""Typed frames: column order, types and category levels as the candidate was trained with, the same in all sets."""
