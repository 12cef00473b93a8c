"""What wraps a handler. Each built-in one has its single and its batch form in one file.

Outermost first: rate_limit, idempotent, retry, timeout, use; folded once at start, in this order whatever that of the
decorators.
"""
