"""Plain HTTP, for what an SDK would not send or would not show."""

import dataclasses
import functools
import http.client
import json
import urllib.parse

import botocore.session

TARGET = "AmazonDMSv20160101"
CONTENT_TYPE = "application/x-amz-json-1.1"
TIMEOUT_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json["__type"]


def connect(server):
    return http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=TIMEOUT_SECONDS)


def answer_of(connection):
    """Reads the answer to what was sent."""
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def send(server, body, headers=None, *, method="POST", path="/"):
    connection = connect(server)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        return answer_of(connection)
    finally:
        connection.close()


def headers_for(operation, account="test", region="us-east-1"):
    scope = f"{account}/20260102/{region}/dms/aws4_request"
    return {
        "X-Amz-Target": f"{TARGET}.{operation}",
        "Content-Type": CONTENT_TYPE,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0000",
    }


def call(server, operation, request, **scope):
    """Calls an operation with any JSON, or with bytes that are none."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return send(server, body, headers_for(operation, **scope))


@functools.cache
def model():
    return botocore.session.get_session().get_service_model("dms")


def smallest(shape):
    """The smallest value the API model allows for a shape: required members only."""
    match shape.type_name:
        case "structure" if shape.is_tagged_union:
            name, member = next(iter(shape.members.items()))
            return {name: smallest(member)}
        case "structure":
            return {name: smallest(shape.members[name]) for name in shape.required_members}
        case "list":
            return [smallest(shape.member)]
        case "string":
            return (
                shape.enum[0] if shape.enum else "arn:aws:dms:us-east-1:123456789012:thing:ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            )
        case "integer" | "long":
            return 1
        case "boolean":
            return False
        case "timestamp":
            return 1767225600
        case other:
            raise NotImplementedError(f"{shape.name} is a {other}")


def disagreements(value, shape, path="$"):
    """Where an answer leaves the API model: unknown members, wrong types, nulls."""
    expected = {
        "structure": dict,
        "list": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "long": int,
        "timestamp": (int, float),
        "double": (int, float),
        "map": dict,
    }[shape.type_name]
    if not isinstance(value, expected) or (isinstance(value, bool) and shape.type_name != "boolean"):
        yield f"{path} is {value!r}, not a {shape.type_name}"
    elif shape.type_name == "structure":
        for name, member in value.items():
            if name in shape.members:
                yield from disagreements(member, shape.members[name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is not in the model"
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from disagreements(item, shape.member, f"{path}[{index}]")
