"""privacy-gate decides whether a trained model may be released without exposing the people it was trained on."""

__version__ = "0.1.0"
