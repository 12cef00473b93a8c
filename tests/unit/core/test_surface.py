"""The public surface: small, exported on purpose, documented, typed."""

from __future__ import annotations

import inspect

import unibus
import unibus.testing

SURFACE = {
    "BatchError", "BatchHandler", "BatchMiddleware", "Bus", "ConfigurationError", "DeadLetter", "DecodeError",
    "DestinationNotFound",
    "Drop", "EncodeError", "Handler", "Message", "MessageTooLarge", "Middleware", "NotOpen", "NotSent",
    "OutcomeUnknown", "Queue", "Reject", "Rejected", "Retry", "Router", "Topic", "TopicSubscription", "UnibusError",
    "UnsupportedCapability", "constant", "dead_letter", "exponential", "idempotent", "linear", "rate_limit", "retry",
    "timeout", "use",
}  # fmt: skip


def test_exports() -> None:
    assert set(unibus.__all__) == SURFACE
    assert list(unibus.__all__) == sorted(unibus.__all__)
    assert {name for name in SURFACE if not hasattr(unibus, name)} == set()


def test_everything_public_has_a_docstring() -> None:
    bare = [
        name
        for name in SURFACE
        if (inspect.isclass(getattr(unibus, name)) or inspect.isfunction(getattr(unibus, name)))
        and not getattr(unibus, name).__doc__
    ]
    for cls in (unibus.Bus, unibus.Router, unibus.Message):
        for name, member in vars(cls).items():
            if not name.startswith("_") and callable(member) and not member.__doc__:
                bare.append(f"{cls.__name__}.{name}")
    assert bare == []


def test_the_error_tree_is_drawn_as_it_is() -> None:
    from unibus import errors

    drawn = {
        line.split()[0]
        for line in (errors.__doc__ or "").replace("│", " ").replace("├──", " ").replace("└──", " ").splitlines()
        if line.strip()
    }
    classes = {
        name for name, member in vars(errors).items() if inspect.isclass(member) and issubclass(member, Exception)
    }
    assert classes <= drawn
