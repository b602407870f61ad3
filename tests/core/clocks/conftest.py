"""Shops at a PSP that does what the test says, as for payments."""

from tests.core.payments.conftest import (  # noqa: F401  (fixtures)
    live_shop,
    other_shop,
    psp_url,
    puppet,
    recover,
    shop,
    stage,
    theatre,
    worker,
)
