"""One AMQP connection of a Python library, driven over standard input and output.

Each line in is {"id", "op", "channel", ...}; each line out answers one, or reports what arrived
unasked: {"event": ...}. pika_client.py and amqp_client.py say the verbs in their library's words.
"""
import base64
import datetime
import decimal
import json
import sys
import time


class Lacks(Exception):
    """The library has no way to say this."""


class Refused(Exception):
    """The broker closed the channel or the connection; code 0 when the socket just went away."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def write(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def event(kind, channel, **fields):
    write({"event": kind, "channel": channel, **fields})


def answer(command, perform):
    """Performs one command and writes its answer."""
    try:
        write({"id": command["id"], "ok": perform(command)})
    except Lacks as error:
        write({"id": command["id"], "lacks": str(error)})
    except Refused as error:
        write({"id": command["id"], "refused": {"code": error.code, "text": error.text}})


def every_type():
    """A table with a value of every type that a Python library writes."""
    return {
        "bool": True,
        "int": -70_000,
        "long": 5_000_000_000,
        "double": 0.1,
        "decimal": decimal.Decimal("123.45"),
        "timestamp": datetime.datetime(2023, 11, 14, 22, 13, 20),
        "bytes": b"\x00\xff\x80",
        "text": "grüße 漢字 🐇",
        "nothing": None,
        "list": [1, "two", [3], {"four": 4}],
        "table": {"inner": {"innermost": "yes"}},
    }


def describe(value):
    """A value of a table as JSON that shows its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, datetime.datetime):
        return {"date": value.isoformat()}
    if isinstance(value, time.struct_time):
        return {"date": time.strftime("%Y-%m-%dT%H:%M:%S", value)}
    if isinstance(value, (list, tuple)):
        return [describe(inner) for inner in value]
    return {name: describe(value[name]) for name in sorted(value)}


def body_of(command):
    return base64.b64decode(command.get("body", ""))


def as_text(body):
    if isinstance(body, str):
        body = body.encode()
    return base64.b64encode(body).decode()
