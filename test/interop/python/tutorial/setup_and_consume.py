import pika

connection = pika.BlockingConnection(pika.ConnectionParameters('localhost'))
channel = connection.channel()

channel.exchange_declare(exchange='logs', type='direct')

channel.queue_declare(queue='hello', durable=True)

channel.queue_bind(queue='hello', exchange='logs', routing_key='hello')

def on_request(ch, method, props, body):
    print(" [x] Received %r" % body)
    sleep(body.count('.'))
    print(" [x] Done")
    ch.basic_ack(delivery_tag = method.delivery_tag)

channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue='hello', on_message_callback=on_request, auto_ack=True)

print(' [*] Waiting for messages. To exit press CTRL+C')
channel.start_consuming()
