"""Configuration for other people's Hydra apps; Hydra wants a package here."""
