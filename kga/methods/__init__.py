"""How it is forgotten: one Lightning callback per method, one YAML per callback."""
