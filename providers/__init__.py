"""The judges of the plugins: the providers' own SDKs and other independent programs, against our simulators and adapters.

None of it is part of the product or imported by it; ``docs/providers.md`` says what judges what.
"""
