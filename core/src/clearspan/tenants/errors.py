"""What can be refused about a tenant."""

from __future__ import annotations

from clearspan.platform.problems import DomainError


class SlugTaken(DomainError):
    """Another tenant has this slug."""

    code = "tenant_slug_taken"
    status = 409
    title = "The slug is taken"
    advice = "Choose another slug, or use the tenant that has it."


class TenantInvalid(DomainError):
    """The slug or the name breaks its rule."""

    code = "tenant_invalid"
    status = 422
    title = "The tenant cannot be made like this"
    advice = (
        "A slug has 3 to 40 lower-case letters, digits and '-', begins with a letter and does not end with '-';"
        " a name has 1 to 200 characters."
    )
