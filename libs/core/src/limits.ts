/** Every bound in the system, one constant each, with its reason. Sizes are bytes, times ms. */

/** AMQP short strings hold at most 255 bytes, and every name travels as one. */
export const NAME_BYTES_MAX = 255

/** RabbitMQ 4's default `max_message_size`. A setting may lower or raise it, up to the cap. */
export const MESSAGE_BYTES_DEFAULT = 16 * 1024 * 1024
export const MESSAGE_BYTES_CAP = 512 * 1024 * 1024

/** Properties and headers of one message. A frame of 128 KiB is AMQP's usual limit for them. */
export const PROPERTIES_BYTES_MAX = 128 * 1024

/**
 * Records in one stream entry. A batch larger than a consumer's credit must be split, at some ten
 * times the cost, and 250 is a usual prefetch; past 128 the cost per message falls little.
 */
export const BATCH_RECORDS_MAX = 128

/** Bytes in one stream entry, unless a single record is larger: keeps a script under ~1 ms. */
export const BATCH_BYTES_MAX = 256 * 1024

/** Appends in flight at a time for one queue and process, where Redis is slow to answer. */
export const APPENDS_IN_FLIGHT_MAX = 4

/** Bytes that may wait in a process for their append, over all queues; beyond it: overload. */
export const APPEND_BACKLOG_BYTES_MAX = 256 * 1024 * 1024

/** Most messages one script call moves: bounds how long it keeps Redis from others (~1 ms). */
export const PASS_MESSAGES_MAX = 256

/**
 * Bytes of messages in one reply of a script, after the first one: a process holds a few of them.
 */
export const REPLY_BYTES_MAX = 8 * 1024 * 1024

/** Levels of a priority queue; each is a log of its own. */
export const PRIORITY_LEVELS_MAX = 10

/** Ten years: RabbitMQ's bound on TTL, expiry and delays. */
export const DURATION_MS_MAX = 315_360_000_000

/** A slot whose heartbeat is this old is dead, and what it holds is reclaimed. */
export const SLOT_TTL_MS = 10_000
export const SLOT_HEARTBEAT_MS = 2_500

/** An idle slot looks by itself this often: a wake-up hint may be lost. */
export const IDLE_LOOK_MS = 1_000

/** Bytes of a reason or error text kept with a message. */
export const REASON_BYTES_MAX = 1_000

/** Line and headers of an HTTP request: message headers travel there, and proxies pass 64 KiB. */
export const HTTP_HEADER_BYTES_MAX = 64 * 1024
export const HTTP_HEADERS_MAX = 256

/** A path of four names of 255 bytes, each percent-encoded (3 for 1), and a query. */
export const HTTP_URL_BYTES_MAX = 8 * 1024

/** JSON bodies of everything but publishes: definitions, leases, settlements. */
export const HTTP_JSON_BYTES_MAX = 1024 * 1024

/** Nesting of a JSON body: definitions are flat, and deeper ones exhaust their readers' stack. */
export const JSON_DEPTH_MAX = 32

/** Request headers must be complete within this; a client that sends them slower holds a socket. */
export const HTTP_HEADERS_MS_MAX = 10_000

/** A body must arrive within this, and a millisecond more for every 16 bytes (16 KB/s). */
export const HTTP_BODY_MS_MAX = 30_000

/** A streamed batch may pause this long between two chunks. */
export const HTTP_STREAM_IDLE_MS_MAX = 300_000

/** Idle keep-alive sockets: longer than the 60 s of the usual proxies, so that they close first. */
export const HTTP_KEEP_ALIVE_MS = 65_000

/** A batch as one JSON array is parsed whole; larger ones stream as NDJSON. */
export const HTTP_BATCH_BYTES_MAX = 16 * 1024 * 1024

/** Messages of one streamed batch that may wait for their confirms: what a round trip can carry. */
export const HTTP_BATCH_OUTSTANDING_MAX = 4_096
export const HTTP_BATCH_OUTSTANDING_BYTES_MAX = 8 * 1024 * 1024

/** Failures listed in the answer to a batch, and after how many the batch is given up on. */
export const HTTP_BATCH_FAILURES_LISTED_MAX = 100
export const HTTP_BATCH_FAILURES_MAX = 1_000

/** AMQP: from the first byte to connection.open; a client that takes longer holds a socket. */
export const AMQP_HANDSHAKE_MS_MAX = 10_000

/** AMQP: a handshake that failed is held this long, which slows down whoever guesses passwords. */
export const AMQP_FAILURE_DELAY_MS = 3_000

/** AMQP: a peer that was told to close has this long to agree. */
export const AMQP_CLOSE_MS_MAX = 30_000

/** AMQP: the same when the server stops, which must not wait long for one silent client. */
export const AMQP_FORCED_CLOSE_MS_MAX = 3_000

/** AMQP: largest frame before tuning: room for a client's properties and a token as password. */
export const AMQP_HANDSHAKE_FRAME_MAX = 16 * 1024

/**
 * AMQP: frames of a connection that wait behind a slow method of their channel; then reading stops.
 */
export const AMQP_WAITING_BYTES_MAX = 256 * 1024

/** AMQP: answers that a client does not read; beyond it, reading from that client stops. */
export const AMQP_UNREAD_BYTES_MAX = 8 * 1024 * 1024

/** AMQP: bodies a connection may have half sent, over all its channels, in largest messages. */
export const AMQP_ASSEMBLING_MESSAGES_MAX = 4

/** What tune proposes, as RabbitMQ: frame size in bytes, channels a connection, heartbeat in s. */
export const AMQP_FRAME_MAX = 131_072
export const AMQP_CHANNEL_MAX = 2_047
export const AMQP_HEARTBEAT_S = 60

/** AMQP connections of one process; some 50 KB each while idle. */
export const AMQP_CONNECTIONS_MAX = 50_000

/** One WebSocket message of a client that speaks AMQP; it may cut frames as it likes. */
export const AMQP_WEBSOCKET_MESSAGE_MAX = 16 * 1024 * 1024

/** WebSocket: until the frame that says who is there; and the most that it may be. */
export const WEBSOCKET_OPEN_MS_MAX = 10_000
export const WEBSOCKET_OPEN_BYTES_MAX = 16 * 1024

/** WebSocket: a ping each; who is silent between two and reads nothing is gone. */
export const WEBSOCKET_HEARTBEAT_MS = 15_000

/** WebSocket connections of one process; some 30 KB each while idle. */
export const WEBSOCKET_CONNECTIONS_MAX = 50_000

/** WebSocket: consumers of a connection, and unsettled deliveries of a consumer. */
export const WEBSOCKET_CONSUMERS_MAX = 1_000
export const WEBSOCKET_CREDIT_MAX = 1_000

/** WebSocket: what a client has not read; past it nothing more is delivered to it. */
export const WEBSOCKET_UNREAD_BYTES_MAX = 1024 * 1024

/** WebSocket: publishes of a connection on their way to Redis; past it reading stops. */
export const WEBSOCKET_PUBLISHES_MAX = 4_096
export const WEBSOCKET_PUBLISH_BYTES_MAX = 8 * 1024 * 1024

/** Server-Sent Events: streams of one process; each holds a socket and a lease that waits. */
export const EVENT_STREAMS_MAX = 5_000

/** How long an accepted request is known while it waits; a week covers a weekend's outage. */
export const REQUEST_WAITING_MS_MAX = 7 * 24 * 3_600_000

/** `Prefer: wait`: longer ones are cut to this, which the usual proxies let pass. */
export const REQUEST_WAIT_MS_MAX = 55_000
