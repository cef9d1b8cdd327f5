"""Shadow models: which records train them (plan), how (recipes), where they are kept (store), and the training."""
