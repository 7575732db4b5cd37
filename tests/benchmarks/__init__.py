"""How fast and how small unlearning is, beside the published loop and a lower bound. Run by ``make bench``."""
