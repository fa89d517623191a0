"""Tests of `wsbridge top`."""
