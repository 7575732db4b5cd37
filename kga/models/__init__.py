"""Building models: from scratch with a tokenizer of their own, or pretrained. One class per family, one YAML per choice."""
