"""What ``clearspan.cli`` runs, one module per command. Each is imported when its command is called."""
