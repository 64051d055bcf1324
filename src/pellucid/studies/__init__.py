"""One file a study: from a model to a folder with its findings."""
