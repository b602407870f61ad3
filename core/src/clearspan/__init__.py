"""Clearspan: the payment gateway a merchant owns."""
