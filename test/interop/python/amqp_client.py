"""Scenarios through py-amqp, Celery's protocol library. Usage: amqp_client.py URL HEARTBEAT"""
import json
import os
import select
import socket
import sys
import time
from urllib.parse import unquote, urlparse

import amqp
from amqp import exceptions

from bridge import Lacks, Refused, answer, as_text, body_of, describe, event, every_type, write

PROPERTIES = {
    "contentType": "content_type",
    "contentEncoding": "content_encoding",
    "headers": "application_headers",
    "deliveryMode": "delivery_mode",
    "priority": "priority",
    "correlationId": "correlation_id",
    "replyTo": "reply_to",
    "expiration": "expiration",
    "messageId": "message_id",
    "timestamp": "timestamp",
    "type": "type",
    "userId": "user_id",
    "appId": "app_id",
}


def received(message):
    found = {name: message.properties.get(own) for name, own in PROPERTIES.items()}
    return {
        "properties": {
            name: describe(value) for name, value in found.items() if value is not None
        },
        "body": as_text(message.body),
    }


def delivery(message):
    info = message.delivery_info
    return {
        "tag": info["delivery_tag"],
        "redelivered": info["redelivered"],
        "exchange": info["exchange"],
        "routingKey": info["routing_key"],
        **received(message),
    }


class Client:
    def __init__(self, url, heartbeat):
        self.heartbeat = heartbeat
        parts = urlparse(url)
        self.connection = amqp.Connection(
            host=f"{parts.hostname}:{parts.port}",
            userid=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            virtual_host=unquote(parts.path[1:]) or "/",
            heartbeat=heartbeat,
            connect_timeout=30,
        )
        self.connection.connect()
        self.channels = {}
        self.confirming = set()

    def perform(self, command):
        try:
            return getattr(self, command["op"])(command)
        except (exceptions.ChannelError, exceptions.ConnectionError) as error:
            # It opens the channel again at once, under the same number.
            refused = Refused(error.reply_code or 0, error.reply_text or str(error))
            event("closed", command["channel"], code=refused.code, text=refused.text)
            raise refused from error
        except OSError as error:
            raise Refused(0, str(error)) from error

    def of(self, command):
        return self.channels[command["channel"]]

    def open(self, command):
        channel = self.connection.channel()
        number = command["channel"]
        self.channels[number] = channel
        channel.events["basic_return"].add(
            lambda error, exchange, routing_key, message: event(
                "return",
                number,
                code=error.reply_code,
                text=error.reply_text,
                exchange=exchange,
                routingKey=routing_key,
                **received(message),
            )
        )

    def close(self, command):
        self.of(command).close()

    def declareQueue(self, command):
        ok = self.of(command).queue_declare(
            command["name"],
            durable=command.get("durable", False),
            exclusive=command.get("exclusive", False),
            auto_delete=command.get("autoDelete", False),
            arguments=command.get("arguments"),
        )
        return {"name": ok.queue, "messages": ok.message_count, "consumers": ok.consumer_count}

    def checkQueue(self, command):
        ok = self.of(command).queue_declare(command["name"], passive=True)
        return {"name": ok.queue, "messages": ok.message_count, "consumers": ok.consumer_count}

    def deleteQueue(self, command):
        return self.of(command).queue_delete(
            command["name"], command.get("ifUnused", False), command.get("ifEmpty", False)
        )

    def purge(self, command):
        return self.of(command).queue_purge(command["name"])

    def declareExchange(self, command):
        if command.get("internal"):
            raise Lacks("internal exchanges")
        self.of(command).exchange_declare(
            command["name"],
            command["type"],
            durable=command.get("durable", False),
            auto_delete=command.get("autoDelete", False),
            arguments=command.get("arguments"),
        )

    def checkExchange(self, command):
        self.of(command).exchange_declare(command["name"], "direct", passive=True)

    def deleteExchange(self, command):
        self.of(command).exchange_delete(command["name"], command.get("ifUnused", False))

    def bind(self, command):
        self.of(command).queue_bind(
            command["queue"],
            command["exchange"],
            command["key"],
            arguments=command.get("arguments"),
        )

    def unbind(self, command):
        self.of(command).queue_unbind(
            command["queue"],
            command["exchange"],
            command["key"],
            arguments=command.get("arguments"),
        )

    def bindExchange(self, command):
        self.of(command).exchange_bind(
            command["to"], command["from"], command["key"], arguments=command.get("arguments")
        )

    def unbindExchange(self, command):
        self.of(command).exchange_unbind(
            command["to"], command["from"], command["key"], arguments=command.get("arguments")
        )

    def confirms(self, command):
        channel = self.of(command)
        channel.confirm_select()
        channel._confirm_selected = True  # else the first publish does it again
        self.confirming.add(command["channel"])

    def publish(self, command):
        given = dict(command.get("properties", {}))
        if command.get("everyType"):
            given["headers"] = {**given.get("headers", {}), **every_type()}
        message = amqp.Message(
            body_of(command), **{PROPERTIES[name]: value for name, value in given.items()}
        )
        confirming = command["channel"] in self.confirming
        channel = self.of(command)
        publish = channel.basic_publish_confirm if confirming else channel.basic_publish
        try:
            publish(
                message,
                exchange=command["exchange"],
                routing_key=command["routingKey"],
                mandatory=command["mandatory"],
            )
        except exceptions.MessageNacked:
            return "nacked"
        return "acked" if confirming else "sent"

    def qos(self, command):
        self.of(command).basic_qos(0, command["count"], command["global"])

    def consume(self, command):
        number = command["channel"]
        return self.of(command).basic_consume(
            command["queue"],
            consumer_tag=command.get("tag", ""),
            no_ack=command["noAck"],
            exclusive=command["exclusive"],
            arguments=command.get("arguments"),
            callback=lambda message: event(
                "deliver",
                number,
                consumer=message.delivery_info["consumer_tag"],
                delivery=delivery(message),
            ),
            on_cancel=lambda tag: event("cancel", number, tag=tag),
        )

    def cancel(self, command):
        self.of(command).basic_cancel(command["tag"])

    def get(self, command):
        message = self.of(command).basic_get(command["queue"], no_ack=command["noAck"])
        if message is None:
            return None
        return {**delivery(message), "left": message.delivery_info["message_count"]}

    def ack(self, command):
        self.of(command).basic_ack(command["tag"], multiple=command["multiple"])

    def nack(self, command):
        raise Lacks("basic.nack")

    def reject(self, command):
        self.of(command).basic_reject(command["tag"], command["requeue"])

    def recover(self, command):
        self.of(command).basic_recover(requeue=True)

    def txSelect(self, command):
        self.of(command).tx_select()

    def txCommit(self, command):
        self.of(command).tx_commit()

    def txRollback(self, command):
        self.of(command).tx_rollback()


def keep_alive(connection):
    try:
        connection.heartbeat_tick()
    except (exceptions.ConnectionForced, OSError) as error:
        write({"event": "lost", "code": 0, "text": str(error)})
        sys.exit()


def drain(client):
    try:
        # One frame: drain_events does not return while heartbeats keep coming.
        client.connection.blocking_read(timeout=1)
    except socket.timeout:
        pass
    except exceptions.ChannelError as error:
        for number in client.channels:
            event("closed", number, code=error.reply_code, text=error.reply_text)
    except exceptions.ConnectionError as error:
        write({"event": "lost", "code": error.reply_code, "text": error.reply_text})
        sys.exit()
    except OSError as error:
        write({"event": "lost", "code": 0, "text": str(error)})
        sys.exit()


def main():
    try:
        client = Client(sys.argv[1], int(sys.argv[2]))
    except exceptions.AMQPError as error:
        return write(
            {"refused": {"code": error.reply_code or 0, "text": error.reply_text or repr(error)}}
        )
    except OSError as error:
        return write({"refused": {"code": 0, "text": str(error)}})
    write({"connected": True})
    tick = client.heartbeat / 4 if client.heartbeat else None
    pending = b""
    while True:
        ready, _, _ = select.select([client.connection.sock, 0], [], [], tick)
        if tick:
            keep_alive(client.connection)
        if client.connection.sock in ready:
            drain(client)
        if 0 not in ready:
            continue
        chunk = os.read(0, 1 << 20)
        if not chunk:
            return client.connection.close()
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            command = json.loads(line)
            if command["op"] == "end":
                client.connection.close()
                return write({"id": command["id"], "ok": None})
            answer(command, client.perform)


main()
