"""What programs do with kombu. Usage: kombu_programs.py PROGRAM URL PREFIX; writes its outcome."""
import json
import socket
import sys
from queue import Empty

from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.mixins import ConsumerProducerMixin


def simple_queue(connection, prefix):
    """Put and get, as JSON and compressed, with a requeue between."""
    with connection.SimpleQueue(prefix + "simple") as queue:
        queue.put({"n": 1, "text": "grüße"})
        queue.put({"n": 2}, compression="zlib")
        first = queue.get(timeout=60)
        first.requeue()
        seen = [queue.get(timeout=60) for _ in range(2)]
        for message in seen:
            message.ack()
        try:
            queue.get_nowait()
            empty = False
        except Empty:
            empty = True
        size = queue.qsize()
    # After its consumer is cancelled, which the deletion would do as well.
    Queue(prefix + "simple")(connection.channel()).delete()
    return {
        "payloads": [message.payload for message in seen],
        "redelivered": [message.delivery_info["redelivered"] for message in seen],
        "empty": empty,
        "size": size,
    }


def fanout(connection, prefix):
    """Two queues bound to a fanout exchange, auto-deleted with it."""
    exchange = Exchange(prefix + "fanout", "fanout", durable=False, auto_delete=True)
    queues = [
        Queue(prefix + name, exchange, durable=False, auto_delete=True) for name in ("a", "b")
    ]
    seen = []

    def receive(body, message):
        seen.append([message.delivery_info["consumer_tag"] != "", body])
        message.ack()

    with connection.channel() as channel:
        with Consumer(channel, queues, callbacks=[receive], accept=["json"]):
            producer = Producer(connection.channel(), exchange)
            for n in range(3):
                producer.publish({"n": n}, retry=True)
            while len(seen) < 6:
                connection.drain_events(timeout=60)
    return sorted(seen, key=str)


def confirms(url, prefix):
    """Confirmed publishing, and a message that nobody wants."""
    returned = []
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        queue = Queue(prefix + "confirmed", durable=True, max_priority=5, message_ttl=60)
        bound = queue(channel)
        bound.declare()
        producer = Producer(
            channel,
            on_return=lambda error, exchange, key, message: returned.append(
                [error.reply_code, error.reply_text]
            ),
        )
        for priority in (0, 5, 3):
            producer.publish(str(priority), routing_key=queue.name, priority=priority)
        producer.publish("x", routing_key=prefix + "nowhere", mandatory=True)
        seen = []
        for _ in range(3):
            message = bound.get()
            seen.append(message.payload)
            message.ack()
        state = bound.queue_declare(passive=True)
        bound.delete()
        return {"seen": seen, "returned": returned, "left": state.message_count}


class Worker(ConsumerProducerMixin):
    """Answers requests, as kombu's own examples do."""

    def __init__(self, connection, queue, count):
        self.connection = connection
        self.queue = queue
        self.left = count
        self.started = False

    def get_consumers(self, Consumer, channel):
        return [Consumer(queues=[self.queue], on_message=self.answer, prefetch_count=1)]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.started = True

    def answer(self, message):
        self.producer.publish(
            {"twice": 2 * message.payload["n"]},
            exchange="",
            routing_key=message.properties["reply_to"],
            correlation_id=message.properties["correlation_id"],
            retry=True,
        )
        message.ack()
        self.left -= 1
        self.should_stop = self.left == 0


def rpc(connection, prefix):
    """A client with a queue of its own for answers, and a worker by ConsumerProducerMixin."""
    requests = Queue(prefix + "rpc", durable=False)
    answers = Queue("", exclusive=True, auto_delete=True)
    seen = []
    channel = connection.channel()
    bound = answers(channel)
    bound.declare()
    requests(channel).declare()
    producer = Producer(channel)
    for n in (1, 2):
        producer.publish(
            {"n": n}, routing_key=requests.name, reply_to=bound.name, correlation_id=str(n)
        )
    Worker(connection.clone(), requests, 2).run()
    with Consumer(
        channel,
        [bound],
        on_message=lambda message: seen.append(
            [message.properties["correlation_id"], message.payload]
        ),
        no_ack=True,
        auto_declare=False,  # declaring it again by its amq. name would be refused
    ):
        while len(seen) < 2:
            connection.drain_events(timeout=60)
    requests(channel).delete()
    return seen


def broker(connection, _prefix):
    """How it takes the broker's name and version: it decides on qos(global=True) by them."""
    connection.ensure_connection(max_retries=1)
    client = connection.connection
    return {
        "product": client.server_properties.get("product"),
        "qos as RabbitMQ": not connection.qos_semantics_matches_spec,
        "capabilities": dict(sorted(client.server_properties["capabilities"].items())),
    }


def main(program, url, prefix):
    if program == "confirms":
        return confirms(url, prefix)
    act = {"simple": simple_queue, "fanout": fanout, "rpc": rpc, "broker": broker}[program]
    with Connection(url, heartbeat=10) as connection:
        return act(connection, prefix)


try:
    print(json.dumps(main(*sys.argv[1:])))
except socket.timeout:
    sys.exit("nothing arrived in time")
