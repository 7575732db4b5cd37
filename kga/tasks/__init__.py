"""What is learned: one LightningModule per task."""
