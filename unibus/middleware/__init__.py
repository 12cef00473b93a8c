"""What wraps a handler. Each built-in one has its single and its batch form in one file.

Outermost first: idempotent, retry, timeout, use; folded once at start, whatever the order of the decorators.
"""
