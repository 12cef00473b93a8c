"""The same shop on any broker, with nothing but the URL changed."""
