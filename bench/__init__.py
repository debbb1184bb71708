"""Measurements: deterministic trees, an exact compare, and Mastodon beside the tools a user would pick instead."""
