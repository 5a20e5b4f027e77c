#!/usr/bin/env python3
"""Make database-migration-service.json, the DMS API as a Smithy 2.0 JSON AST, from botocore's public description.

    python3 smithy-models/generate.py [--check] [DIR]

DIR is botocore's folder of the service (…/botocore/data/dms/2016-01-01); without it the importable botocore is used.
--check writes nothing and fails when the file differs from what would be written. Standard library only.
"""

import argparse
import gzip
import importlib.util
import json
import re
import sys
from pathlib import Path

NAMESPACE = "com.amazonaws.databasemigrationservice"
OUTPUT = Path(__file__).with_name("database-migration-service.json")
WIDTH = 140

SIMPLE_TYPES = {"string", "boolean", "integer", "long", "float", "double", "timestamp", "blob"}
TIMESTAMP_FORMATS = {"iso8601": "date-time", "unixTimestamp": "epoch-seconds", "rfc822": "http-date"}
WAITER_COMPARATORS = {"pathAll": "allStringEquals", "pathAny": "anyStringEquals", "path": "stringEquals"}
# The JSON protocols send every modelled client fault with this status; the source only names other ones.
CLIENT_ERROR_STATUS = 400


def main():
    arguments = argparse.ArgumentParser(description="Make the Smithy model of the DMS API from botocore's description.")
    arguments.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="botocore/data/dms/2016-01-01")
    arguments.add_argument("--check", action="store_true", help="fail when the file is not up to date")
    arguments = arguments.parse_args()

    directory = arguments.directory or importable_botocore()
    model = convert(load(directory, "service-2"), load(directory, "paginators-1"), load(directory, "waiters-2"))
    text = render(model) + "\n"
    json.loads(text)
    if arguments.check:
        if not OUTPUT.exists() or OUTPUT.read_text(encoding="utf-8") != text:
            sys.exit(f"{OUTPUT.name} differs from what {directory} gives: run smithy-models/generate.py")
    else:
        OUTPUT.write_text(text, encoding="utf-8")


def importable_botocore():
    spec = importlib.util.find_spec("botocore")
    if spec is None or spec.origin is None:
        sys.exit("no botocore can be imported: pass its data folder of the service, or pip install botocore")
    return Path(spec.origin).parent / "data" / "dms" / "2016-01-01"


def load(directory, name):
    for path, opener in ((directory / f"{name}.json", open), (directory / f"{name}.json.gz", gzip.open)):
        if path.exists():
            with opener(path, "rt", encoding="utf-8") as file:
                return json.load(file)
    sys.exit(f"neither {name}.json nor {name}.json.gz in {directory}")


def convert(source, paginators, waiters):
    """The whole AST. Shapes are sorted by name, so that a refresh shows as a small difference."""
    names = source["shapes"]
    # A number or boolean that has an `…Optional` sibling is a primitive of the service's own modelling language:
    # without a value it is zero or false, which Smithy says with a default on the shape and on each of its members.
    zeros = {name: ZEROS[shape["type"]] for name, shape in names.items() if name + "Optional" in names}
    shapes = {service_name(source): service(source)}
    for name, operation in source["operations"].items():
        shapes[name] = convert_operation(
            operation, paginators["pagination"].get(name), waiters_of(name, waiters["waiters"])
        )
    for name, shape in names.items():
        if name in shapes:
            sys.exit(f"two shapes are called {name}")
        shapes[name] = convert_shape(name, shape, zeros)
    ordered = {absolute(name): shapes[name] for name in sorted(shapes)}
    return {"smithy": "2.0", "shapes": ordered}


ZEROS = {"boolean": False, "integer": 0, "long": 0, "float": 0, "double": 0}


def absolute(name):
    return f"{NAMESPACE}#{name}"


def target(name):
    return {"target": absolute(name)}


def service_name(source):
    return source["metadata"]["targetPrefix"]


def service(source):
    metadata = source["metadata"]
    if (metadata["protocol"], metadata["jsonVersion"], metadata["signatureVersion"]) != ("json", "1.1", "v4"):
        sys.exit("the service no longer speaks awsJson 1.1 signed with SigV4")
    return {
        "type": "service",
        "version": metadata["apiVersion"],
        "operations": [target(name) for name in sorted(source["operations"])],
        "traits": {
            "aws.api#service": {
                "arnNamespace": metadata["endpointPrefix"],
                "endpointPrefix": metadata["endpointPrefix"],
                "sdkId": metadata["serviceId"],
            },
            "aws.auth#sigv4": {"name": metadata.get("signingName", metadata["endpointPrefix"])},
            "aws.protocols#awsJson1_1": {},
            "smithy.api#title": metadata["serviceFullName"],
        },
    }


def convert_operation(operation, pagination, waitable):
    unit = {"target": "smithy.api#Unit"}
    result = {
        "type": "operation",
        "input": target(operation["input"]["shape"]) if "input" in operation else unit,
        "output": target(operation["output"]["shape"]) if "output" in operation else unit,
    }
    if operation.get("errors"):
        result["errors"] = [target(error["shape"]) for error in operation["errors"]]
    traits = {}
    if operation.get("deprecated"):
        traits["smithy.api#deprecated"] = {}
    if pagination:
        traits["smithy.api#paginated"] = {
            "inputToken": pagination["input_token"],
            "items": pagination["result_key"],
            "outputToken": pagination["output_token"],
            "pageSize": pagination["limit_key"],
        }
    if waitable:
        traits["smithy.waiters#waitable"] = waitable
    if traits:
        result["traits"] = traits
    return result


def waiters_of(operation, waiters):
    return {
        name: {"acceptors": [acceptor(item) for item in waiter["acceptors"]], "minDelay": waiter["delay"]}
        for name, waiter in sorted(waiters.items())
        if waiter["operation"] == operation
    }


def acceptor(item):
    if item["matcher"] == "error":
        matcher = {"errorType": item["expected"]}
    else:
        comparator = WAITER_COMPARATORS[item["matcher"]]
        matcher = {"output": {"comparator": comparator, "expected": item["expected"], "path": item["argument"]}}
    return {"matcher": matcher, "state": item["state"]}


def convert_shape(name, shape, zeros):
    kind = shape["type"]
    traits = common_traits(shape)
    if kind == "structure":
        result = structure(shape, traits, zeros)
    elif kind == "list":
        result = {"type": "list", "member": target(shape["member"]["shape"])}
    elif kind == "map":
        result = {"type": "map", "key": target(shape["key"]["shape"]), "value": target(shape["value"]["shape"])}
    elif kind == "string" and "enum" in shape:
        result = {"type": "enum", "members": enum_members(name, shape["enum"])}
    elif kind in SIMPLE_TYPES:
        result = {"type": kind}
        if name in zeros:
            traits["smithy.api#default"] = zeros[name]
    else:
        sys.exit(f"{name} has the unknown type {kind}")
    if traits:
        result["traits"] = dict(sorted(traits.items()))
    return result


def common_traits(shape):
    traits = {}
    bounds = {bound: shape[bound] for bound in ("min", "max") if bound in shape}
    if bounds:
        numeric = shape["type"] in ("integer", "long", "float", "double")
        traits["smithy.api#range" if numeric else "smithy.api#length"] = bounds
    if "pattern" in shape:
        traits["smithy.api#pattern"] = shape["pattern"]
    if shape.get("sensitive"):
        traits["smithy.api#sensitive"] = {}
    if shape.get("deprecated"):
        traits["smithy.api#deprecated"] = {}
    if "timestampFormat" in shape:
        traits["smithy.api#timestampFormat"] = TIMESTAMP_FORMATS[shape["timestampFormat"]]
    if shape.get("exception"):
        status = shape.get("error", {}).get("httpStatusCode", CLIENT_ERROR_STATUS)
        traits["smithy.api#error"] = "server" if status >= 500 else "client"
        traits["smithy.api#httpError"] = status
    return traits


def structure(shape, traits, zeros):
    required = set(shape.get("required", ()))
    members = {}
    for name, member in shape["members"].items():
        member_traits = {}
        if member["shape"] in zeros:
            member_traits["smithy.api#default"] = zeros[member["shape"]]
        if member.get("deprecated"):
            member_traits["smithy.api#deprecated"] = {}
        if name in required:
            member_traits["smithy.api#required"] = {}
        if "timestampFormat" in member:
            member_traits["smithy.api#timestampFormat"] = TIMESTAMP_FORMATS[member["timestampFormat"]]
        members[name] = target(member["shape"])
        if member_traits:
            members[name]["traits"] = member_traits
    return {"type": "union" if shape.get("union") else "structure", "members": members}


def enum_members(shape, values):
    members = {}
    for value in values:
        name = re.sub(r"[^A-Z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", value).upper()).strip("_")
        name = name if name[:1].isalpha() else f"VALUE_{name}"
        if name in members:
            sys.exit(f"two values of {shape} would be called {name}")
        members[name] = {"target": "smithy.api#Unit", "traits": {"smithy.api#enumValue": value}}
    return members


def render(value, indent=0, prefix=""):
    """JSON that is compact and still changes line by line: what fits in a line stays on one."""
    line = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    if indent > 0 and len(prefix) + len(line) + indent <= WIDTH or not isinstance(value, (dict, list)) or not value:
        return line
    inner = " " * (indent + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + render(item, indent + 1) for item in value) + "\n" + " " * indent + "]"
    rows = []
    for key, item in value.items():
        key = json.dumps(key, ensure_ascii=False) + ": "
        rows.append(inner + key + render(item, indent + 1, key))
    return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"


if __name__ == "__main__":
    main()
