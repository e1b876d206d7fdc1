"""pika's part of amqp-clients.bench.ts: publishes and then consumes. Writes messages a second."""
import json
import sys
import time

import pika

URL, QUEUE, MESSAGES = sys.argv[1], sys.argv[2], int(sys.argv[3])
PERSISTENT = pika.BasicProperties(delivery_mode=2)

connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
channel.queue_declare(QUEUE, durable=True)
channel.basic_qos(prefetch_count=250)

start = time.monotonic()
for _ in range(MESSAGES):
    channel.basic_publish("", QUEUE, b"x" * 256, PERSISTENT)
# Answered once everything before it has been taken in.
channel.queue_declare(QUEUE, passive=True)
published = time.monotonic() - start

start = time.monotonic()
seen = 0
for method, _, _ in channel.consume(QUEUE):
    channel.basic_ack(method.delivery_tag)
    seen += 1
    if seen == MESSAGES:
        break
consumed = time.monotonic() - start

channel.cancel()
channel.queue_delete(QUEUE)
connection.close()
print(json.dumps({"publish": round(MESSAGES / published), "consume": round(MESSAGES / consumed)}))
