"""Packages: what is in them, and whether they work where there is no source."""
