"""Tests of the admin API and the monitoring endpoint."""
