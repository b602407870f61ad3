"""What can be refused about a vault."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class VaultUnknown(DomainError):
    """No enabled plugin brings a vault of this name, or none was named and there is not exactly one."""

    code = "vault_unknown"
    status = 422
    title = "No such vault"


class VaultTokenInvalid(DomainError):
    """The vault does not know the token."""

    code = "vault_token_invalid"
    status = 422
    title = "The vault does not take this token"
    advice = "Let the vault's hosted page collect the card again and send the new token. Nothing was stored."


class VaultUnavailable(DomainError):
    """The vault could not be reached, or refuses to work with us."""

    code = "vault_unavailable"
    status = 503
    title = "The vault cannot be used"
    advice = "Nothing was stored. Repeat the request with the same Idempotency-Key."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, retry_after_s=5)
