"""The ledger: append-only double entry per tenant and currency."""
