"""What is measured: utility on the truth, forget quality against a reference model. All are ``torchmetrics.Metric``s."""
