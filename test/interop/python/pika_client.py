"""Scenarios through pika's BlockingConnection. Usage: pika_client.py URL"""
import json
import re
import sys
import threading

import pika
from pika import exceptions

from bridge import Refused, answer, as_text, body_of, describe, event, every_type, write

PROPERTIES = {
    "contentType": "content_type",
    "contentEncoding": "content_encoding",
    "headers": "headers",
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


def received(properties, body):
    found = {name: describe(getattr(properties, own)) for name, own in PROPERTIES.items()}
    return {
        "properties": {name: value for name, value in found.items() if value is not None},
        "body": as_text(body),
    }


def delivery(method, properties, body):
    return {
        "tag": method.delivery_tag,
        "redelivered": method.redelivered,
        "exchange": method.exchange,
        "routingKey": method.routing_key,
        **received(properties, body),
    }


def returned(number, method, properties, body):
    event(
        "return",
        number,
        code=method.reply_code,
        text=method.reply_text,
        exchange=method.exchange,
        routingKey=method.routing_key,
        **received(properties, body),
    )


class Client:
    def __init__(self, url):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channels = {}
        self.confirming = set()

    def perform(self, command):
        try:
            return getattr(self, command["op"])(command)
        except (exceptions.ChannelClosedByBroker, exceptions.ConnectionClosedByBroker) as error:
            raise Refused(error.reply_code, error.reply_text) from error
        except exceptions.AMQPError as error:
            raise Refused(0, type(error).__name__) from error

    def of(self, command):
        return self.channels[command["channel"]]

    def open(self, command):
        channel = self.connection.channel()
        number = command["channel"]
        self.channels[number] = channel
        channel.add_on_return_callback(
            lambda _, method, properties, body: returned(number, method, properties, body)
        )
        channel.add_on_cancel_callback(
            lambda frame: event("cancel", number, tag=frame.method.consumer_tag)
        )

        def closed(_channel, reason):
            if isinstance(reason, exceptions.ChannelClosedByBroker):
                event("closed", number, code=reason.reply_code, text=reason.reply_text)

        channel._impl.add_on_close_callback(closed)

    def close(self, command):
        self.of(command).close()

    def declareQueue(self, command):
        ok = self.of(command).queue_declare(
            command["name"],
            durable=command.get("durable", False),
            exclusive=command.get("exclusive", False),
            auto_delete=command.get("autoDelete", False),
            arguments=command.get("arguments"),
        ).method
        return {"name": ok.queue, "messages": ok.message_count, "consumers": ok.consumer_count}

    def checkQueue(self, command):
        ok = self.of(command).queue_declare(command["name"], passive=True).method
        return {"name": ok.queue, "messages": ok.message_count, "consumers": ok.consumer_count}

    def deleteQueue(self, command):
        return self.of(command).queue_delete(
            command["name"],
            if_unused=command.get("ifUnused", False),
            if_empty=command.get("ifEmpty", False),
        ).method.message_count

    def purge(self, command):
        return self.of(command).queue_purge(command["name"]).method.message_count

    def declareExchange(self, command):
        self.of(command).exchange_declare(
            command["name"],
            exchange_type=command["type"],
            durable=command.get("durable", False),
            auto_delete=command.get("autoDelete", False),
            internal=command.get("internal", False),
            arguments=command.get("arguments"),
        )

    def checkExchange(self, command):
        self.of(command).exchange_declare(command["name"], passive=True)

    def deleteExchange(self, command):
        self.of(command).exchange_delete(command["name"], if_unused=command.get("ifUnused", False))

    def bind(self, command):
        self.of(command).queue_bind(
            command["queue"], command["exchange"], command["key"], command.get("arguments")
        )

    def unbind(self, command):
        self.of(command).queue_unbind(
            command["queue"], command["exchange"], command["key"], command.get("arguments")
        )

    def bindExchange(self, command):
        self.of(command).exchange_bind(
            command["to"], command["from"], command["key"], command.get("arguments")
        )

    def unbindExchange(self, command):
        self.of(command).exchange_unbind(
            command["to"], command["from"], command["key"], command.get("arguments")
        )

    def confirms(self, command):
        self.of(command).confirm_delivery()
        self.confirming.add(command["channel"])

    def publish(self, command):
        given = dict(command.get("properties", {}))
        if command.get("everyType"):
            table = every_type()
            del table["double"]  # it writes no floating point
            given["headers"] = {**given.get("headers", {}), **table}
        try:
            self.of(command).basic_publish(
                command["exchange"],
                command["routingKey"],
                body_of(command),
                pika.BasicProperties(**{PROPERTIES[name]: value for name, value in given.items()}),
                mandatory=command["mandatory"],
            )
        except exceptions.NackError:
            return "nacked"
        except exceptions.UnroutableError as error:
            # The callback sees the message too, only later than the publisher.
            if not error.messages:
                raise
            return "acked"
        return "acked" if command["channel"] in self.confirming else "sent"

    def qos(self, command):
        self.of(command).basic_qos(prefetch_count=command["count"], global_qos=command["global"])

    def consume(self, command):
        number = command["channel"]
        return self.of(command).basic_consume(
            command["queue"],
            lambda _, method, properties, body: event(
                "deliver",
                number,
                consumer=method.consumer_tag,
                delivery=delivery(method, properties, body),
            ),
            auto_ack=command["noAck"],
            exclusive=command["exclusive"],
            consumer_tag=command.get("tag"),
            arguments=command.get("arguments"),
        )

    def cancel(self, command):
        self.of(command).basic_cancel(command["tag"])

    def get(self, command):
        method, properties, body = self.of(command).basic_get(
            command["queue"], auto_ack=command["noAck"]
        )
        if method is None:
            return None
        return {**delivery(method, properties, body), "left": method.message_count}

    def ack(self, command):
        self.of(command).basic_ack(command["tag"], multiple=command["multiple"])

    def nack(self, command):
        self.of(command).basic_nack(
            command["tag"], multiple=command["multiple"], requeue=command["requeue"]
        )

    def reject(self, command):
        self.of(command).basic_reject(command["tag"], requeue=command["requeue"])

    def recover(self, command):
        self.of(command).basic_recover(requeue=True)

    def txSelect(self, command):
        self.of(command).tx_select()

    def txCommit(self, command):
        self.of(command).tx_commit()

    def txRollback(self, command):
        self.of(command).tx_rollback()


def main():
    try:
        client = Client(sys.argv[1])
    except exceptions.ConnectionClosedByBroker as error:
        return write({"refused": {"code": error.reply_code, "text": error.reply_text}})
    except exceptions.AMQPError as error:
        # It guesses at the cause, and quotes what the broker said.
        quoted = re.search(r"\((\d+)\) (['\"])(.*)\2\W*$", repr(error).replace("\\", ""))
        code, _, text = quoted.groups() if quoted else (0, "", repr(error))
        return write({"refused": {"code": int(code), "text": text}})
    write({"connected": True})
    connection = client.connection

    def read():
        for line in sys.stdin:
            command = json.loads(line)
            later(lambda command=command: perform(command))
        later(connection.close)

    def later(act):
        try:
            connection.add_callback_threadsafe(act)
        except exceptions.ConnectionWrongStateError:
            pass  # its end was reported already

    def perform(command):
        if command["op"] == "end":
            connection.close()
            write({"id": command["id"], "ok": None})
            return
        answer(command, client.perform)

    threading.Thread(target=read, daemon=True).start()
    try:
        while connection.is_open:
            connection.process_data_events(time_limit=None)
    except exceptions.ConnectionClosedByBroker as error:
        write({"event": "lost", "code": error.reply_code, "text": error.reply_text})
    except exceptions.AMQPError as error:
        if not connection.is_open:
            write({"event": "lost", "code": 0, "text": type(error).__name__})


main()
