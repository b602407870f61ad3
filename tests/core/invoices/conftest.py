"""Shops of the payments' tests."""

from tests.core.payments.conftest import psp_url, puppet, recover, shop, stage, theatre, worker

__all__ = ["psp_url", "puppet", "recover", "shop", "stage", "theatre", "worker"]
