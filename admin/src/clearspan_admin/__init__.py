"""The operator's cockpit, as a plugin."""
