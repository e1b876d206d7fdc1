"""Publishes one message over AMQP, as a Python producer with or without OpenTelemetry does.

Arguments: URL, queue, and the headers of the message as JSON ('null' = none).
"""
import json
import sys

import pika

url, queue, headers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
properties = pika.BasicProperties(delivery_mode=2, content_type="text/plain", headers=headers)
channel.basic_publish("", queue, b"hello", properties, mandatory=True)
connection.close()
