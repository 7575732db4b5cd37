"""What a run tells of itself while it is made: loggers, W&B among them, and a dashboard for it."""
