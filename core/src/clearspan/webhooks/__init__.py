"""Outgoing webhooks: endpoints, deliveries, signatures (Standard Webhooks 1.0.0), the delivery log and replay."""
