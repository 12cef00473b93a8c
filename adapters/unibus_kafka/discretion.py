"""What the client library would tell its log of a login: at DEBUG it shows each request, and so the password."""

from __future__ import annotations

import logging

from aiokafka.protocol.admin import SaslAuthenticateRequest_v0, SaslAuthenticateRequest_v1


class _Discreet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple("a login" if isinstance(one, _LOGINS) else one for one in record.args)
        return True


_LOGINS = (SaslAuthenticateRequest_v0, SaslAuthenticateRequest_v1)
_DISCREET = _Discreet()


def keep_logins_secret() -> None:
    """Of the whole process, once."""
    logging.getLogger("aiokafka.conn").addFilter(_DISCREET)
