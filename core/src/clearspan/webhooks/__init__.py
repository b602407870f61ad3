"""Outgoing webhooks: endpoints, deliveries, signatures."""
