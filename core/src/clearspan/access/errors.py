"""What can be refused about an API key."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class ScopesExceeded(DomainError):
    """A key would be made that may do more than its maker."""

    code = "api_key_scopes_exceeded"
    status = 403
    title = "A key cannot give scopes that it lacks itself"
    advice = "Ask for scopes that your own key has, or use a key that has them all."


class KeyNotActive(DomainError):
    """The key is revoked or expired."""

    code = "api_key_not_active"
    status = 409
    title = "The API key is revoked or expired"
    advice = "Only a working key can be rotated; create a new one instead."


class KeyAlreadyRotated(DomainError):
    """The key has a successor."""

    code = "api_key_already_rotated"
    status = 409
    title = "The API key was rotated before"
    advice = "Rotate its successor, or create a new key."
