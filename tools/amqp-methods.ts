/**
 * The methods of AMQP 0-9-1: classes, ids and fields, as the specification and RabbitMQ's
 * extensions to it number them. tools/amqp-spec.ts makes libs/amqp/src/spec.ts of this table.
 *
 * A line is `id name direction fields`. Direction: `>` sent by clients, `<` by the server, `=` by
 * both. A field is `name:type`; one in parentheses is reserved: written as zero, skipped when read.
 * Consecutive bits share octets. A line that begins with a field goes on with
 * the one before.
 */

export interface MethodClass {
  readonly id: number
  readonly name: string
  readonly methods: string
}

export const METHOD_CLASSES: readonly MethodClass[] = [
  {
    id: 10,
    name: 'connection',
    methods: `
      10 start < versionMajor:octet versionMinor:octet serverProperties:table
        mechanisms:longstr locales:longstr
      11 start-ok > clientProperties:table mechanism:shortstr response:longbytes locale:shortstr
      20 secure < challenge:longbytes
      21 secure-ok > response:longbytes
      30 tune < channelMax:short frameMax:long heartbeat:short
      31 tune-ok > channelMax:short frameMax:long heartbeat:short
      40 open > virtualHost:shortstr (capabilities:shortstr) (insist:bit)
      41 open-ok < (knownHosts:shortstr)
      50 close = replyCode:short replyText:shortstr classId:short methodId:short
      51 close-ok =
      60 blocked < reason:shortstr
      61 unblocked <
      70 update-secret > newSecret:longbytes reason:shortstr
      71 update-secret-ok <`,
  },
  {
    id: 20,
    name: 'channel',
    methods: `
      10 open > (outOfBand:shortstr)
      11 open-ok < (channelId:longbytes)
      20 flow = active:bit
      21 flow-ok = active:bit
      40 close = replyCode:short replyText:shortstr classId:short methodId:short
      41 close-ok =`,
  },
  {
    id: 30,
    name: 'access',
    methods: `
      10 request > (realm:shortstr) (exclusive:bit) (passive:bit) (active:bit) (write:bit)
        (read:bit)
      11 request-ok < ticket:short`,
  },
  {
    id: 40,
    name: 'exchange',
    methods: `
      10 declare > (ticket:short) exchange:shortstr type:shortstr passive:bit durable:bit
        autoDelete:bit internal:bit noWait:bit arguments:table
      11 declare-ok <
      20 delete > (ticket:short) exchange:shortstr ifUnused:bit noWait:bit
      21 delete-ok <
      30 bind > (ticket:short) destination:shortstr source:shortstr routingKey:shortstr
        noWait:bit arguments:table
      31 bind-ok <
      40 unbind > (ticket:short) destination:shortstr source:shortstr routingKey:shortstr
        noWait:bit arguments:table
      51 unbind-ok <`,
  },
  {
    id: 50,
    name: 'queue',
    methods: `
      10 declare > (ticket:short) queue:shortstr passive:bit durable:bit exclusive:bit
        autoDelete:bit noWait:bit arguments:table
      11 declare-ok < queue:shortstr messageCount:long consumerCount:long
      20 bind > (ticket:short) queue:shortstr exchange:shortstr routingKey:shortstr
        noWait:bit arguments:table
      21 bind-ok <
      30 purge > (ticket:short) queue:shortstr noWait:bit
      31 purge-ok < messageCount:long
      40 delete > (ticket:short) queue:shortstr ifUnused:bit ifEmpty:bit noWait:bit
      41 delete-ok < messageCount:long
      50 unbind > (ticket:short) queue:shortstr exchange:shortstr routingKey:shortstr
        arguments:table
      51 unbind-ok <`,
  },
  {
    id: 60,
    name: 'basic',
    methods: `
      10 qos > prefetchSize:long prefetchCount:short global:bit
      11 qos-ok <
      20 consume > (ticket:short) queue:shortstr consumerTag:shortstr noLocal:bit noAck:bit
        exclusive:bit noWait:bit arguments:table
      21 consume-ok < consumerTag:shortstr
      30 cancel = consumerTag:shortstr noWait:bit
      31 cancel-ok = consumerTag:shortstr
      40 publish > (ticket:short) exchange:shortstr routingKey:shortstr mandatory:bit
        immediate:bit
      50 return < replyCode:short replyText:shortstr exchange:shortstr routingKey:shortstr
      60 deliver < consumerTag:shortstr deliveryTag:longlong redelivered:bit
        exchange:shortstr routingKey:shortstr
      70 get > (ticket:short) queue:shortstr noAck:bit
      71 get-ok < deliveryTag:longlong redelivered:bit exchange:shortstr routingKey:shortstr
        messageCount:long
      72 get-empty < (clusterId:shortstr)
      80 ack = deliveryTag:longlong multiple:bit
      90 reject > deliveryTag:longlong requeue:bit
      100 recover-async > requeue:bit
      110 recover > requeue:bit
      111 recover-ok <
      120 nack = deliveryTag:longlong multiple:bit requeue:bit`,
  },
  {
    id: 85,
    name: 'confirm',
    methods: `
      10 select > noWait:bit
      11 select-ok <`,
  },
  {
    id: 90,
    name: 'tx',
    methods: `
      10 select >
      11 select-ok <
      20 commit >
      21 commit-ok <
      30 rollback >
      31 rollback-ok <`,
  },
]

/** The words of each method's line: id, name, direction, fields. */
export function methodLines({ methods }: MethodClass): string[][] {
  return methods
    .trim()
    .split(/\n\s+(?=\d)/)
    .map((line) => line.split(/\s+/))
}
