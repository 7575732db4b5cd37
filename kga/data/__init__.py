"""Where examples come from: a folder, the hub or text inside the package; each source returns a `Corpus`."""
