"""Whether anyone can still tell that a model saw the forgotten examples: membership inference, relearning, quantising."""
