"""Measurements, always as a ratio to pgbench running the same statements on the same server in the same run."""
