"""Mastodon: backups that survive the compromise of either end."""

__version__ = "1.0.0"
