"""Models that exist already as shadows: fold models and earlier versions with their member lists."""
