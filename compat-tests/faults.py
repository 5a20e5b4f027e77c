"""How a call must fail."""

import contextlib

import pytest
from botocore.exceptions import ClientError

# What DMS answers to a bad parameter. Neither is in its API model.
VALUE = "InvalidParameterValueException"
COMBINATION = "InvalidParameterCombinationException"

ALREADY_EXISTS = "ResourceAlreadyExistsFault"
NOT_BUILT = "NotImplementedException"
NOT_FOUND = "ResourceNotFoundFault"
STATE = "InvalidResourceStateFault"
TOO_FEW_ZONES = "ReplicationSubnetGroupDoesNotCoverEnoughAZs"

# For refusals of which only the fact is known, not the code.
REFUSED = (VALUE, COMBINATION, STATE)

IDENTIFIER_RULE = (
    "The parameter {what} is not a valid identifier. Identifiers must begin with a letter; must contain only ASCII"
    " letters, digits, and hyphens; and must not end with a hyphen or contain two consecutive hyphens."
)


@contextlib.contextmanager
def fault(codes, text=None, *, names=()):
    """The block makes one call that fails with the code (or one of the codes). `text` is the whole message, or a
    compiled pattern found in it; `names` are words it contains, in any case."""
    codes = (codes,) if isinstance(codes, str) else codes
    with pytest.raises(ClientError) as caught:
        yield
    response = caught.value.response
    code, message = response["Error"]["Code"], response["Error"]["Message"]
    assert code in codes, f"{code}: {message}"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == (501 if code == NOT_BUILT else 400)
    if isinstance(text, str):
        assert message == text
    elif text is not None:
        assert text.search(message), message
    else:
        assert message, "a fault says what is wrong"
    for name in names:
        assert name.lower() in message.lower()
